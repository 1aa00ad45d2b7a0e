//! The LeanIMT and its proofs.

use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyIterator};

use crate::cpu;
use crate::field::Fr;
use crate::python::convert::{Octets, bytes, element, elements, elements_back_to_back};
use crate::python::errors::tree_error;
use crate::tree::{LeanImt, MerkleProof, TreeError};

/// The way from a leaf to the root.
#[pyclass(name = "MerkleProof", module = "psymm._core", frozen)]
pub(crate) struct PyMerkleProof {
    proof: MerkleProof,
}

#[pymethods]
impl PyMerkleProof {
    #[new]
    fn new(
        leaf: Octets,
        index: u32,
        siblings: Vec<Octets>,
        root: Octets,
        leaf_index: usize,
    ) -> PyResult<Self> {
        let siblings = elements(&siblings, "sibling")?;
        let (leaf, root) = (element(&leaf, "leaf")?, element(&root, "root")?);
        Ok(Self {
            proof: MerkleProof {
                leaf,
                leaf_index,
                index,
                siblings,
                root,
            },
        })
    }

    #[getter]
    fn leaf<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        bytes(py, &self.proof.leaf.to_bytes())
    }

    #[getter]
    fn index(&self) -> u32 {
        self.proof.index
    }

    #[getter]
    fn leaf_index(&self) -> usize {
        self.proof.leaf_index
    }

    #[getter]
    fn siblings<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyBytes>> {
        let siblings = self.proof.siblings.iter();
        siblings
            .map(|sibling| bytes(py, &sibling.to_bytes()))
            .collect()
    }

    #[getter]
    fn root<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        bytes(py, &self.proof.root.to_bytes())
    }

    fn verify(&self) -> bool {
        self.proof.verify()
    }

    fn __eq__(&self, other: &Self) -> bool {
        self.proof == other.proof
    }

    fn __repr__(&self) -> String {
        format!(
            "MerkleProof(leaf_index={}, index={:#b}, siblings={}, root={:?})",
            self.proof.leaf_index,
            self.proof.index,
            self.proof.siblings.len(),
            self.proof.root
        )
    }
}

/// Leaves from a buffer that has them back to back, or from an iterable of buffers.
fn leaves_of(leaves: &Bound<'_, PyAny>) -> PyResult<Vec<Fr>> {
    if let Ok(octets) = leaves.extract::<Octets>() {
        let octets = octets.as_slice();
        return leaves.py().detach(|| elements_back_to_back(octets, "leaf"));
    }
    let octets: Vec<Octets> = PyIterator::from_object(leaves)?
        .map(|leaf| leaf?.extract())
        .collect::<PyResult<_>>()?;
    elements(&octets, "leaf")
}

/// A LeanIMT that keeps every node.
#[pyclass(name = "LeanIMT", module = "psymm._core")]
pub(crate) struct PyLeanImt {
    tree: LeanImt,
}

#[pymethods]
impl PyLeanImt {
    #[new]
    #[pyo3(signature = (leaves = None, *, threads = 1))]
    fn new(py: Python<'_>, leaves: Option<&Bound<'_, PyAny>>, threads: usize) -> PyResult<Self> {
        let mut this = Self {
            tree: LeanImt::new(),
        };
        if let Some(leaves) = leaves {
            this.insert_many(py, leaves, threads)?;
        }
        Ok(this)
    }

    fn insert(&mut self, leaf: Octets) -> PyResult<usize> {
        self.tree
            .insert(element(&leaf, "leaf")?)
            .map_err(tree_error)
    }

    #[pyo3(signature = (leaves, *, threads = 1))]
    fn insert_many(
        &mut self,
        py: Python<'_>,
        leaves: &Bound<'_, PyAny>,
        threads: usize,
    ) -> PyResult<()> {
        let leaves = leaves_of(leaves)?;
        let tree = &mut self.tree;
        py.detach(|| tree.insert_many_with(cpu::best(), &leaves, threads))
            .map_err(tree_error)
    }

    fn truncate(&mut self, py: Python<'_>, size: usize) {
        let tree = &mut self.tree;
        py.detach(|| tree.truncate(size));
    }

    #[getter]
    fn root<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        bytes(py, &self.tree.root().to_bytes())
    }

    #[getter]
    fn depth(&self) -> usize {
        self.tree.depth()
    }

    fn __len__(&self) -> usize {
        self.tree.len()
    }

    fn leaf<'py>(&self, py: Python<'py>, index: usize) -> PyResult<Bound<'py, PyBytes>> {
        let size = self.tree.len();
        let leaf = self.tree.leaf(index).ok_or_else(|| {
            PyIndexError::new_err(TreeError::NoSuchLeaf { index, size }.to_string())
        })?;
        Ok(bytes(py, &leaf.to_bytes()))
    }

    fn index_of(&self, leaf: Octets) -> PyResult<Option<usize>> {
        Ok(self.tree.index_of(element(&leaf, "leaf")?))
    }

    fn proof(&self, index: usize) -> PyResult<PyMerkleProof> {
        match self.tree.proof(index) {
            Ok(proof) => Ok(PyMerkleProof { proof }),
            Err(error) => Err(PyIndexError::new_err(error.to_string())),
        }
    }

    fn __repr__(&self) -> String {
        format!(
            "LeanIMT(size={}, root={:?})",
            self.tree.len(),
            self.tree.root()
        )
    }
}
