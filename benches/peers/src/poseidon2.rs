//! Poseidon2 over BN254, width 4, by the crates that publish this instance. All of them give the
//! permutation; the sponge around two inputs is one permutation of (left, right, 0, 2 · 2^64).

use core::ffi::c_void;

use acir_field::{AcirField as _, FieldElement};
use ark_bn254::Fr;
use ark_ff::{BigInteger as _, PrimeField as _};

use crate::interface::Poseidon2Peer;

/// The crate taceo-poseidon2, on arkworks' fields with their assembly.
pub(crate) const TACEO: Poseidon2Peer = Poseidon2Peer {
    name: c"taceo-poseidon2".as_ptr(),
    open: open::<Fr>,
    hash: taceo_hash,
    read: read::<Fr>,
    close: close::<Fr>,
};

/// The crate bn254_blackbox_solver: Noir's own, what its virtual machine runs.
pub(crate) const NOIR: Poseidon2Peer = Poseidon2Peer {
    name: c"bn254_blackbox_solver (Noir)".as_ptr(),
    open: open::<FieldElement>,
    hash: noir_hash,
    read: read::<FieldElement>,
    close: close::<FieldElement>,
};

/// The crate pso-poseidon, on the same fields.
pub(crate) const PSO: Poseidon2Peer = Poseidon2Peer {
    name: c"pso-poseidon".as_ptr(),
    open: open::<Fr>,
    hash: pso_hash,
    read: read::<Fr>,
    close: close::<Fr>,
};

/// A field element in a peer's own form.
trait Element: Copy {
    fn from_be(bytes: &[u8; 32]) -> Self;
    fn to_be(self) -> [u8; 32];
    fn from_number(number: u128) -> Self;
}

impl Element for Fr {
    fn from_be(bytes: &[u8; 32]) -> Self {
        Self::from_be_bytes_mod_order(bytes)
    }

    fn to_be(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(&self.into_bigint().to_bytes_be());
        bytes
    }

    fn from_number(number: u128) -> Self {
        Self::from(number)
    }
}

impl Element for FieldElement {
    fn from_be(bytes: &[u8; 32]) -> Self {
        Self::from_be_bytes_reduce(bytes)
    }

    fn to_be(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(&self.to_be_bytes());
        bytes
    }

    fn from_number(number: u128) -> Self {
        Self::from(number)
    }
}

/// The states before the permutation and the first elements after it.
struct Pairs<E> {
    states: Vec<[E; 4]>,
    hashes: Vec<E>,
}

unsafe extern "C" fn open<E: Element>(pairs: *const [[u8; 32]; 2], length: usize) -> *mut c_void {
    // SAFETY: the caller's pointer holds that many pairs.
    let pairs = unsafe { core::slice::from_raw_parts(pairs, length) };
    let (zero, capacity) = (E::from_number(0), E::from_number(2 << 64));
    let states = pairs
        .iter()
        .map(|[left, right]| [E::from_be(left), E::from_be(right), zero, capacity])
        .collect();
    let hashes = vec![zero; length];
    Box::into_raw(Box::new(Pairs { states, hashes })).cast()
}

unsafe extern "C" fn read<E: Element>(pairs: *const c_void, hashes: *mut [u8; 32]) {
    // SAFETY: the pointer is one that `open` of the same type gave.
    let pairs = unsafe { &*pairs.cast::<Pairs<E>>() };
    // SAFETY: the caller has room for as many hashes as it opened pairs.
    let hashes = unsafe { core::slice::from_raw_parts_mut(hashes, pairs.hashes.len()) };
    for (bytes, hash) in hashes.iter_mut().zip(&pairs.hashes) {
        *bytes = hash.to_be();
    }
}

unsafe extern "C" fn close<E>(pairs: *mut c_void) {
    // SAFETY: the pointer is one that `open` of the same type gave, and is given back once.
    drop(unsafe { Box::from_raw(pairs.cast::<Pairs<E>>()) });
}

unsafe extern "C" fn taceo_hash(pairs: *mut c_void) {
    // SAFETY: the pointer is one that `open::<Fr>` gave.
    let pairs = unsafe { &mut *pairs.cast::<Pairs<Fr>>() };
    for (hash, state) in pairs.hashes.iter_mut().zip(&pairs.states) {
        *hash = taceo_poseidon2::bn254::t4::permutation(state)[0];
    }
}

unsafe extern "C" fn noir_hash(pairs: *mut c_void) {
    // SAFETY: the pointer is one that `open::<FieldElement>` gave.
    let pairs = unsafe { &mut *pairs.cast::<Pairs<FieldElement>>() };
    for (hash, state) in pairs.hashes.iter_mut().zip(&pairs.states) {
        *hash = bn254_blackbox_solver::poseidon2_permutation(state)
            .map_or_else(|_| FieldElement::zero(), |permuted| permuted[0]);
    }
}

unsafe extern "C" fn pso_hash(pairs: *mut c_void) {
    // SAFETY: the pointer is one that `open::<Fr>` gave.
    let pairs = unsafe { &mut *pairs.cast::<Pairs<Fr>>() };
    let poseidon2 = pso_poseidon::Poseidon2::<Fr>::new();
    for (hash, state) in pairs.hashes.iter_mut().zip(&pairs.states) {
        *hash = poseidon2.permutation(state)[0];
    }
}
