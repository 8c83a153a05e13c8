//! The error of one topic, partition or resource within a request.

use kafka_protocol::ResponseError;
use kafka_protocol::protocol::StrBytes;

/// An error code and what the user is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub error: ResponseError,
    pub message: Option<String>,
}

impl Refusal {
    pub fn new(error: ResponseError, message: impl Into<String>) -> Self {
        Self {
            error,
            message: Some(message.into()),
        }
    }

    /// Without words of its own: clients print what the code means.
    pub fn bare(error: ResponseError) -> Self {
        Self {
            error,
            message: None,
        }
    }

    pub fn code(&self) -> i16 {
        self.error.code()
    }

    pub fn into_wire(self) -> Option<StrBytes> {
        self.message.map(StrBytes::from_string)
    }
}

impl From<super::ConfigRefusal> for Refusal {
    fn from(refusal: super::ConfigRefusal) -> Self {
        Self::new(refusal.error, refusal.message)
    }
}
