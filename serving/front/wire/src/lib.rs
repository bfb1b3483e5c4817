//! What gRPC lays over HTTP/2, as functions of bytes: nothing here touches a socket, a clock or Python.
//!
//! The protocol is https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.

pub mod frames;
pub mod headers;
pub mod made;
pub mod plain;
pub mod status;
