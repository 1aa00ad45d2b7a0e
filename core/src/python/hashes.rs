//! Hashes and the development reference string.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::field::{Fr, MODULUS};
use crate::python::convert::{Octets, bytes, element};
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
    let state = state
        .iter()
        .map(|octets| element(octets, "state element"))
        .collect::<PyResult<Vec<_>>>()?;
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
    let inputs = inputs
        .iter()
        .map(|octets| element(octets, "input"))
        .collect::<PyResult<Vec<_>>>()?;
    Ok(bytes(py, &poseidon2::hash(&inputs).to_bytes()))
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
