//! What is to be sent: buffers and slices of files, in order.

use bytes::Bytes;

use crate::base::file_slice::FileSlice;

/// One reply on its way to a socket, length prefix included.
#[derive(Clone, Debug, Default)]
pub struct Outgoing {
    pub parts: Vec<Part>,
}

/// A piece of a reply.
#[derive(Clone, Debug)]
pub enum Part {
    Bytes(Bytes),
    /// Sent without a copy, unless it is small.
    File(FileSlice),
}

impl Outgoing {
    /// Bytes of all parts.
    pub fn len(&self) -> u64 {
        self.parts.iter().map(Part::len).sum()
    }

    /// Bytes that it holds in memory: what is sent from a file is not among them.
    pub fn memory_bytes(&self) -> u64 {
        let bytes = |part: &Part| match part {
            Part::Bytes(bytes) => bytes.len() as u64,
            Part::File(_) => 0,
        };
        self.parts.iter().map(bytes).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Part {
    /// Bytes.
    pub fn len(&self) -> u64 {
        match self {
            Part::Bytes(bytes) => bytes.len() as u64,
            Part::File(slice) => u64::from(slice.len),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Bytes> for Outgoing {
    fn from(bytes: Bytes) -> Outgoing {
        Outgoing {
            parts: vec![Part::Bytes(bytes)],
        }
    }
}

impl From<Vec<Part>> for Outgoing {
    fn from(parts: Vec<Part>) -> Outgoing {
        Outgoing { parts }
    }
}
