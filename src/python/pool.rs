//! `Pool`: the limit of requests in progress, for one server or shared by several.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::convert::{duration, wait_in_slices};
use crate::config::{POOL_SIZE_DEFAULT, POOL_SIZE_MAX};
use crate::pool;

/// A pool: at most `size` requests of its servers are in progress at once. Pass it to several servers as `pool=`.
#[pyclass(frozen, module = "maypole", subclass)]
pub(super) struct Pool {
    pool: Arc<pool::Pool>,
}

impl Pool {
    pub(super) fn pool(&self) -> &Arc<pool::Pool> {
        &self.pool
    }
}

fn checked(size: usize) -> PyResult<usize> {
    if size <= POOL_SIZE_MAX {
        return Ok(size);
    }
    Err(PyValueError::new_err(format!(
        "invalid value '{size}' for size: expected a whole number from 0 to {POOL_SIZE_MAX}"
    )))
}

#[pymethods]
impl Pool {
    /// Accepts all arguments, so that a subclass can have an `__init__` with other arguments.
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self { pool: pool::Pool::new(POOL_SIZE_DEFAULT) }
    }

    #[pyo3(signature = (size=POOL_SIZE_DEFAULT))]
    fn __init__(&self, size: usize) -> PyResult<()> {
        self.resize(size)
    }

    /// The maximum number of requests in progress.
    #[getter]
    fn size(&self) -> usize {
        self.pool.size()
    }

    /// Changes the size. With 0, no new request gets a place. Requests in progress keep their places.
    fn resize(&self, new_size: usize) -> PyResult<()> {
        self.pool.resize(checked(new_size)?);
        Ok(())
    }

    /// Returns how many places are taken.
    fn running(&self) -> usize {
        self.pool.taken()
    }

    /// Returns how many places are free.
    fn free(&self) -> usize {
        self.pool.size().saturating_sub(self.pool.taken())
    }

    /// Waits until no place is taken, at most `timeout` seconds. Returns whether none is taken.
    #[pyo3(signature = (timeout=None))]
    fn waitall(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        wait_in_slices(py, timeout.map(duration), |slice| self.pool.wait_all(slice))
    }

    fn __repr__(&self) -> String {
        format!("<maypole.Pool of {}, {} taken>", self.pool.size(), self.pool.taken())
    }
}
