//! ApiVersions (KIP-35, 511, 584).

use bytes::Bytes;
use kafka_protocol::messages::ApiVersionsRequest;

use crate::handlers::{Begun, Call, Close};
use crate::protocol::api_versions::{self, Features};
use crate::protocol::response::decode_request;
use crate::transport::Outgoing;

pub fn begin(call: &Call, body: Bytes) -> Result<Begun, Close> {
    let request: ApiVersionsRequest = decode_request(call.version, body)?;
    let valid = call.version < 3
        || (api_versions::client_software_is_valid(&request.client_software_name)
            && api_versions::client_software_is_valid(&request.client_software_version));
    let response = if valid {
        let features = Features::served(call.peer.image().version());
        api_versions::response(call.version, &features, 0)
    } else {
        api_versions::invalid_request(call.version, 0)
    };
    Ok(Begun::Done(call.encode(&response)?))
}

/// The answer to a version that is not served: a version 0 body, so that any client can read it.
pub fn unsupported(correlation_id: i32) -> Result<Outgoing, Close> {
    let bytes = api_versions::encode_unsupported_version(correlation_id)?;
    Ok(Outgoing::from(bytes))
}
