//! One file per API family: decode, authorise, route, merge, encode.
