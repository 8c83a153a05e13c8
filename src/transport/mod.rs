//! Sockets: frames in, buffers and file slices out.
