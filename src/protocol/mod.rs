//! Bytes of the wire: frames, headers, versions, requests and responses. Pure.
