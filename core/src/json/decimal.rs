//! Decimals: plain strings on the wire, integers scaled by 10^18 inside.

/// Digits after the point.
const FRACTION: usize = 18;
/// Digits before the point, at most.
const INTEGER: usize = 20;
/// 10^38: one more than the largest value. Below 2^127, so an i128 holds every decimal.
const LIMIT: u128 = 10u128.pow((INTEGER + FRACTION) as u32);
const ONE: u128 = 10u128.pow(FRACTION as u32);

/// The digits of a whole number in its shortest form: no sign, no leading zero. At most 38
/// of them are read, so a `u128` holds the number.
fn whole(digits: &[u8]) -> Option<u128> {
    let shortest = matches!(digits, [b'0'] | [b'1'..=b'9', ..]) && digits.len() <= 38;
    if !shortest {
        return None;
    }
    digits.iter().try_fold(0u128, |number, digit| {
        digit
            .is_ascii_digit()
            .then(|| number * 10 + u128::from(digit - b'0'))
    })
}

/// The value of a decimal in its shortest form, scaled by 10^18: an optional minus, at most
/// 20 digits without leading zeros, and, if there is a fraction, a point and at most 18 digits
/// of which the last is not zero. There is no minus zero and no exponent.
#[must_use]
pub fn parse_decimal(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (integer, fraction) = match digits.split_once('.') {
        Some((integer, fraction)) => (integer, Some(fraction)),
        None => (digits, None),
    };
    if integer.len() > INTEGER {
        return None;
    }
    let mut magnitude = whole(integer.as_bytes())? * ONE;
    if let Some(fraction) = fraction {
        let fraction = fraction.as_bytes();
        if fraction.len() > FRACTION || matches!(fraction.last(), None | Some(b'0')) {
            return None;
        }
        let mut unit = ONE;
        for digit in fraction {
            if !digit.is_ascii_digit() {
                return None;
            }
            unit /= 10;
            magnitude += u128::from(digit - b'0') * unit;
        }
    }
    if negative && magnitude == 0 {
        return None;
    }
    // magnitude < LIMIT < 2^127
    let value = magnitude as i128;
    Some(if negative { -value } else { value })
}

/// The shortest form of a decimal that is scaled by 10^18; `None` if it has more than 20
/// digits before the point.
#[must_use]
pub fn format_decimal(value: i128) -> Option<String> {
    let magnitude = value.unsigned_abs();
    if magnitude >= LIMIT {
        return None;
    }
    let sign = if value < 0 { "-" } else { "" };
    let (integer, fraction) = (magnitude / ONE, magnitude % ONE);
    Some(if fraction == 0 {
        format!("{sign}{integer}")
    } else {
        let digits = format!("{fraction:018}");
        format!("{sign}{integer}.{}", digits.trim_end_matches('0'))
    })
}

/// A whole number below 2^128 in its shortest form.
pub(super) fn parse_u128(text: &str) -> Option<u128> {
    // 2^128 has 39 digits, one more than `whole` reads.
    let bytes = text.as_bytes();
    if bytes.len() < 39 {
        return whole(bytes);
    }
    let (head, last) = (bytes.get(..38)?, bytes.get(38..)?);
    match last {
        [digit @ b'0'..=b'9'] => whole(head)?
            .checked_mul(10)?
            .checked_add(u128::from(digit - b'0')),
        _ => None,
    }
}

/// A whole number below 2^64 in its shortest form.
pub(super) fn parse_u64(text: &str) -> Option<u64> {
    if text.len() > 20 {
        return None;
    }
    u64::try_from(whole(text.as_bytes())?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn decimals_in_their_shortest_form_are_read() {
        let one = 10i128.pow(18);
        for (text, value) in [
            ("0", 0),
            ("1", one),
            ("-1", -one),
            ("0.1", one / 10),
            ("-0.000000000000000001", -1),
            ("12.5", 25 * one / 2),
            (
                "99999999999999999999.999999999999999999",
                10i128.pow(38) - 1,
            ),
            (
                "-99999999999999999999.999999999999999999",
                1 - 10i128.pow(38),
            ),
        ] {
            assert_eq!(parse_decimal(text), Some(value), "{text}");
            assert_eq!(format_decimal(value).as_deref(), Some(text));
        }
    }

    #[test]
    fn every_other_form_is_refused() {
        for text in [
            "",
            "-",
            ".",
            "+1",
            "01",
            "00",
            "-0",
            "-0.0",
            "0.0",
            "1.",
            ".5",
            "1.0",
            "1.10",
            "1e3",
            "1E3",
            " 1",
            "1 ",
            "1,5",
            "0x1",
            "1.5.5",
            "--1",
            "NaN",
            "Infinity",
            "١",
            "1_000",
            "100000000000000000000",
            "0.0000000000000000001",
            "-00.1",
            "1.-5",
            "1.+5",
        ] {
            assert_eq!(parse_decimal(text), None, "{text:?}");
        }
    }

    #[test]
    fn more_than_twenty_digits_before_the_point_are_not_written() {
        assert_eq!(format_decimal(10i128.pow(38)), None);
        assert_eq!(format_decimal(-(10i128.pow(38))), None);
        assert_eq!(format_decimal(i128::MIN), None);
        assert_eq!(format_decimal(i128::MAX), None);
    }

    #[test]
    fn whole_numbers_end_where_their_type_does() {
        assert_eq!(parse_u64("18446744073709551615"), Some(u64::MAX));
        assert_eq!(parse_u64("18446744073709551616"), None);
        assert_eq!(parse_u128(&u128::MAX.to_string()), Some(u128::MAX));
        assert_eq!(parse_u128("340282366920938463463374607431768211456"), None);
        assert_eq!(parse_u128("999999999999999999999999999999999999999"), None);
        for text in [
            "",
            "00",
            "01",
            "-1",
            "+1",
            "1.0",
            " 1",
            "1a",
            &"1".repeat(40),
        ] {
            assert_eq!(parse_u128(text), None, "{text:?}");
            assert_eq!(parse_u64(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn writing_and_reading_a_decimal_gives_it_back(value in -(10i128.pow(38) - 1)..10i128.pow(38)) {
            prop_assert_eq!(parse_decimal(&format_decimal(value).unwrap()), Some(value));
        }

        #[test]
        fn what_is_read_is_in_its_only_form(text in "-?[0-9]{0,22}(\\.[0-9]{0,20})?") {
            if let Some(value) = parse_decimal(&text) {
                prop_assert_eq!(format_decimal(value), Some(text));
            }
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC*") {
            let _ = (parse_decimal(&text), parse_u128(&text), parse_u64(&text));
        }
    }
}
