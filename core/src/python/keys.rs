//! Keys, signatures and recovery.

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::keccak::Digest;
use crate::python::convert::{Held, Octets, bytes};
use crate::python::errors::signature_error;
use crate::secp256k1::batch::{self, Claim, ClaimFault};
use crate::secp256k1::{self, PublicKey, SecretKey, Signature, SignatureError, checksum_address};

/// A secret key that shows only its address. It cannot be pickled or copied.
#[pyclass(name = "SecretKey", module = "psymm._core", frozen)]
pub(crate) struct PySecretKey {
    pub(crate) key: SecretKey,
}

#[pymethods]
impl PySecretKey {
    #[staticmethod]
    fn generate() -> PyResult<Self> {
        SecretKey::generate()
            .map(|key| Self { key })
            .map_err(signature_error)
    }

    #[staticmethod]
    fn from_bytes(secret: Octets) -> PyResult<Self> {
        let secret = secret.into_secret::<32>("a secret key")?;
        SecretKey::from_bytes(&secret)
            .map(|key| Self { key })
            .map_err(signature_error)
    }

    #[getter]
    fn public_key<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        bytes(py, self.key.public_key().as_bytes())
    }

    #[getter]
    fn address(&self) -> String {
        checksum_address(&self.key.public_key().address())
    }

    fn sign<'py>(&self, py: Python<'py>, digest: Octets) -> PyResult<Bound<'py, PyBytes>> {
        Ok(bytes(py, &self.key.sign(&digest.array("digest")?)))
    }

    fn expose_secret_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        bytes(py, self.key.expose_secret_bytes().as_ref())
    }

    fn __repr__(&self) -> String {
        format!("SecretKey({})", self.address())
    }
}

/// A public key from its 64 bytes.
pub(crate) fn public_key(octets: &Octets) -> PyResult<PublicKey> {
    PublicKey::from_bytes(octets.array("a public key (x ‖ y)")?).map_err(signature_error)
}

#[pyfunction]
pub(crate) fn recover<'py>(
    py: Python<'py>,
    digest: Octets,
    signature: Octets,
) -> PyResult<Bound<'py, PyBytes>> {
    let signature: Signature = signature.array("a signature (r ‖ s ‖ v)")?;
    let key = secp256k1::recover(&digest.array("digest")?, &signature).map_err(signature_error)?;
    Ok(bytes(py, key.as_bytes()))
}

#[pyfunction]
pub(crate) fn verify(digest: Octets, signature: Octets, public_key: Octets) -> PyResult<bool> {
    let digest = digest.array("digest")?;
    let signature: Signature = signature.array("a signature (r ‖ s ‖ v)")?;
    // 64 bytes that are no point made no signature.
    let bytes = public_key.array("a public key (x ‖ y)")?;
    match PublicKey::from_bytes(bytes) {
        Ok(key) => Ok(secp256k1::verify(&digest, &signature, &key)),
        Err(SignatureError::BadPublicKey) => Ok(false),
        Err(other) => Err(signature_error(other)),
    }
}

#[pyfunction]
pub(crate) fn address_of(public_key: Octets) -> PyResult<String> {
    Ok(checksum_address(&self::public_key(&public_key)?.address()))
}

/// Which key each signature is said to be of.
#[derive(FromPyObject)]
pub(crate) enum KeyIndices {
    Narrow(PyBuffer<u32>),
    Wide(PyBuffer<u64>),
    NarrowSigned(PyBuffer<i32>),
    WideSigned(PyBuffer<i64>),
    List(Vec<usize>),
}

impl KeyIndices {
    fn into_list(self, py: Python<'_>) -> PyResult<Vec<usize>> {
        fn places<T: TryInto<usize>>(indices: Vec<T>) -> Vec<usize> {
            // What does not fit is no key's place either.
            let place = |index: T| index.try_into().unwrap_or(usize::MAX);
            indices.into_iter().map(place).collect()
        }
        Ok(match self {
            Self::Narrow(buffer) => places(buffer.to_vec(py)?),
            Self::Wide(buffer) => places(buffer.to_vec(py)?),
            Self::NarrowSigned(buffer) => places(buffer.to_vec(py)?),
            Self::WideSigned(buffer) => places(buffer.to_vec(py)?),
            Self::List(indices) => indices,
        })
    }
}

fn of_one_length(what: &str, given: usize, digests: usize) -> PyResult<()> {
    if given == digests {
        return Ok(());
    }
    Err(PyValueError::new_err(format!(
        "there are {digests} digests and {given} {what}"
    )))
}

#[pyfunction]
#[pyo3(signature = (keys, digests, signatures, key_indices = None, r_ys = None, *, threads = 1))]
pub(crate) fn verify_batch(
    py: Python<'_>,
    keys: Held,
    digests: Held,
    signatures: Held,
    key_indices: Option<KeyIndices>,
    r_ys: Option<Held>,
    threads: usize,
) -> PyResult<Vec<(usize, &'static str)>> {
    let keys: &[[u8; 64]] = keys.records("public keys (x ‖ y)")?;
    let digests: &[Digest] = digests.records("digests")?;
    let signatures: &[Signature] = signatures.records("signatures (r ‖ s ‖ v)")?;
    let r_ys: Option<&[[u8; 32]]> = r_ys
        .as_ref()
        .map(|r_ys| r_ys.records("R.y coordinates"))
        .transpose()?;
    of_one_length("signatures", signatures.len(), digests.len())?;
    if let Some(r_ys) = r_ys {
        of_one_length("R.y coordinates", r_ys.len(), digests.len())?;
    }
    let key_indices = match key_indices {
        Some(indices) => {
            let indices = indices.into_list(py)?;
            of_one_length("key indices", indices.len(), digests.len())?;
            Some(indices)
        }
        None if keys.len() == 1 => None,
        None => {
            of_one_length("public keys and no key indices", keys.len(), digests.len())?;
            Some((0..keys.len()).collect())
        }
    };
    let key_indices = key_indices.as_deref();
    Ok(py.detach(|| refusals(keys, digests, signatures, key_indices, r_ys, threads)))
}

/// The signatures that do not hold, with what is wrong. Without indices all are of the one key.
fn refusals(
    keys: &[[u8; 64]],
    digests: &[Digest],
    signatures: &[Signature],
    key_indices: Option<&[usize]>,
    r_ys: Option<&[[u8; 32]]>,
    threads: usize,
) -> Vec<(usize, &'static str)> {
    // Where each key stands among those that are points.
    let mut points = Vec::with_capacity(keys.len());
    let places: Vec<Option<usize>> = keys
        .iter()
        .map(|key| {
            points.push(PublicKey::from_bytes(*key).ok()?);
            Some(points.len() - 1)
        })
        .collect();
    let mut refusals = Vec::new();
    let mut claims = Vec::with_capacity(digests.len());
    let mut claimed = Vec::with_capacity(digests.len());
    for (index, (digest, signature)) in digests.iter().zip(signatures).enumerate() {
        let key = key_indices.map_or(0, |indices| indices[index]);
        match places.get(key) {
            None => refusals.push((index, ClaimFault::NoSuchKey.code())),
            Some(None) => refusals.push((index, SignatureError::BadPublicKey.code())),
            Some(Some(key)) => {
                claims.push(Claim {
                    digest: *digest,
                    signature,
                    r_y: r_ys.map(|r_ys| &r_ys[index]),
                    key: *key,
                });
                claimed.push(index);
            }
        }
    }
    for refusal in batch::verify_batch(&points, &claims, threads) {
        refusals.push((claimed[refusal.index], refusal.fault.code()));
    }
    refusals.sort_unstable();
    refusals
}

#[pyfunction]
#[pyo3(signature = (digests, signatures, *, threads = 1))]
pub(crate) fn recover_batch<'py>(
    py: Python<'py>,
    digests: Held,
    signatures: Held,
    threads: usize,
) -> PyResult<Bound<'py, PyList>> {
    let digests: &[Digest] = digests.records("digests")?;
    let signatures: &[Signature] = signatures.records("signatures (r ‖ s ‖ v)")?;
    of_one_length("signatures", signatures.len(), digests.len())?;
    let recovered = py.detach(|| {
        let signed: Vec<(Digest, &Signature)> = digests.iter().copied().zip(signatures).collect();
        batch::recover_batch(&signed, threads)
    });
    let list = PyList::empty(py);
    for one in recovered {
        match one {
            Ok(key) => list.append(bytes(py, key.as_bytes()))?,
            Err(error) => list.append(error.code())?,
        }
    }
    Ok(list)
}
