//! Hashes and the development reference string.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::field::{Fr, MODULUS};
use crate::python::convert::{Octets, bytes, elements, elements_back_to_back};
use crate::{crs, keccak, poseidon2};

/// From this many bytes on, hashing lets other threads run.
const LONG: usize = 16 * 1024;

#[pyfunction]
pub(crate) fn keccak256<'py>(py: Python<'py>, data: Octets) -> Bound<'py, PyBytes> {
    let data = data.as_slice();
    let digest = if data.len() < LONG {
        keccak::keccak256(data)
    } else {
        py.detach(|| keccak::keccak256(data))
    };
    bytes(py, &digest)
}

#[pyfunction]
pub(crate) fn domain_separator<'py>(
    py: Python<'py>,
    chain_id: u64,
    contract: Octets,
) -> PyResult<Bound<'py, PyBytes>> {
    let contract = contract.array::<20>("contract")?;
    Ok(bytes(py, &keccak::domain_separator(chain_id, &contract)))
}

#[pyfunction]
pub(crate) fn poseidon2_permutation<'py>(
    py: Python<'py>,
    state: Vec<Octets>,
) -> PyResult<Vec<Bound<'py, PyBytes>>> {
    let state = elements(&state, "state element")?;
    let mut state: [Fr; poseidon2::WIDTH] = state.try_into().map_err(|given: Vec<_>| {
        PyValueError::new_err(format!("the state has 4 elements, not {}", given.len()))
    })?;
    poseidon2::permute(&mut state);
    Ok(state
        .iter()
        .map(|element| bytes(py, &element.to_bytes()))
        .collect())
}

#[pyfunction]
pub(crate) fn poseidon2_hash<'py>(
    py: Python<'py>,
    inputs: Vec<Octets>,
) -> PyResult<Bound<'py, PyBytes>> {
    let inputs = elements(&inputs, "input")?;
    Ok(bytes(py, &poseidon2::hash(&inputs).to_bytes()))
}

#[pyfunction]
pub(crate) fn poseidon2_hash_many<'py>(
    py: Python<'py>,
    arity: usize,
    data: Octets,
) -> PyResult<Bound<'py, PyBytes>> {
    let data = data.as_slice();
    let whole = arity.checked_mul(32).filter(|bytes| *bytes > 0);
    if !whole.is_some_and(|bytes| data.len().is_multiple_of(bytes)) {
        return Err(PyValueError::new_err(format!(
            "{} bytes are no whole number of hashes of {arity} inputs of 32 bytes each, \
             at least one",
            data.len()
        )));
    }
    let hashes = py.detach(|| {
        let inputs = elements_back_to_back(data, "input")?;
        let hashes = poseidon2::hash_many(arity, &inputs);
        let bytes = hashes.iter().flat_map(|hash| hash.to_bytes());
        PyResult::Ok(bytes.collect::<Vec<u8>>())
    })?;
    Ok(bytes(py, &hashes))
}

#[pyfunction]
pub(crate) fn dev_crs(
    py: Python<'_>,
    points: usize,
) -> PyResult<(Bound<'_, PyBytes>, Bound<'_, PyBytes>)> {
    if points > 1 << 28 {
        return Err(PyValueError::new_err(format!(
            "{points} points are more than any circuit takes; ask for at most 2^28"
        )));
    }
    let string = py.detach(|| crs::dev(points));
    Ok((bytes(py, &string.g1), bytes(py, &string.g2)))
}

/// `FIELD_MODULUS` as a Python int.
pub(crate) fn add_modulus(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let mut little_endian = Vec::with_capacity(32);
    for limb in MODULUS {
        little_endian.extend_from_slice(&limb.to_le_bytes());
    }
    let int = module.py().get_type::<pyo3::types::PyInt>();
    let modulus = int.call_method1("from_bytes", (bytes(module.py(), &little_endian), "little"))?;
    module.add("FIELD_MODULUS", modulus)
}
