//! Keys, signatures and recovery.

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::python::convert::{Octets, bytes};
use crate::python::errors::signature_error;
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
