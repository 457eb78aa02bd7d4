//! Bytes of Python objects, borrowed: tensors that are lent to a merge, and room for its results.

use std::sync::Arc;

use branchmerge_core::error::{Error, Kind, Result};
use branchmerge_core::execute::Receive;
use branchmerge_core::read::source::Lent;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::prelude::*;

/// A contiguous buffer, which keeps its object alive and its memory in place until it is dropped.
struct Borrowed {
    buffer: PyUntypedBuffer,
}

impl Borrowed {
    fn get(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let buffer = PyUntypedBuffer::get(object)?;
        if buffer.is_c_contiguous() {
            Ok(Self { buffer })
        } else {
            Err(pyo3::exceptions::PyValueError::new_err("the buffer is not contiguous"))
        }
    }
}

/// A tensor's bytes, which only are read.
struct Source(Borrowed);

impl AsRef<[u8]> for Source {
    #[allow(unsafe_code)]
    fn as_ref(&self) -> &[u8] {
        let (start, length) = (self.0.buffer.buf_ptr().cast::<u8>(), self.0.buffer.len_bytes());
        if length == 0 {
            return &[];
        }
        // SAFETY: The buffer is contiguous, `length` bytes long, and pinned as long as `self` lives. A host that writes to
        // a tensor while it is merged changes numbers only: nothing decides about memory by a byte that is read again.
        unsafe { std::slice::from_raw_parts(start, length) }
    }
}

/// Room for a result.
struct Room(Borrowed);

impl Receive for Room {
    fn bytes(&self) -> u64 {
        self.0.buffer.len_bytes() as u64
    }

    #[allow(unsafe_code)]
    fn put(&self, start: u64, bytes: &[u8]) -> Result<()> {
        let end = start.checked_add(bytes.len() as u64).filter(|&end| end <= self.bytes());
        if end.is_none() {
            return Err(Error::from(Kind::Internal { what: "a result outgrew its room".into() }));
        }
        let room = self.0.buffer.buf_ptr().cast::<u8>();
        // SAFETY: The buffer is writable (seen when it was borrowed), contiguous and pinned; the bytes end within it. It is
        // no input: Python allocated it for this result. Each part is written by one worker.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), room.add(start as usize), bytes.len());
        }
        Ok(())
    }
}

/// Borrows a tensor.
pub(crate) fn lent(object: &Bound<'_, PyAny>) -> PyResult<Lent> {
    Ok(Arc::new(Source(Borrowed::get(object)?)))
}

/// Borrows room for a result.
pub(crate) fn room(object: &Bound<'_, PyAny>) -> PyResult<Arc<dyn Receive>> {
    let borrowed = Borrowed::get(object)?;
    if borrowed.buffer.readonly() {
        return Err(pyo3::exceptions::PyValueError::new_err("the buffer cannot be written to"));
    }
    Ok(Arc::new(Room(borrowed)))
}
