//! Requests with which hosts pass blobs on to each other.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::super::{Call, Effect};
use crate::digest::Digest;
use crate::oci::Blob;

/// A part of a blob.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
pub struct Piece {
    /// The blob.
    pub blob: Blob,
    /// Where in the blob it begins, in bytes.
    pub offset: u64,
    /// How many bytes it has.
    pub size: u64,
    /// The digest of these bytes.
    pub digest: Digest,
}

/// What an agent shows to other agents of the same run, in PEM. Made by the
/// controller for this run, and kept in memory only.
#[derive(Clone, Serialize, Deserialize)]
pub struct Credentials {
    /// The certificate of the authority of the run.
    pub authority: String,
    /// The certificate of this agent, for its name.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

/// Prepares for blobs that come in pieces, and listens for other agents.
#[derive(Clone, Serialize, Deserialize)]
pub struct OpenExchange {
    /// Where to listen.
    pub address: IpAddr,
    /// What to show to others, and what to expect of them.
    pub credentials: Credentials,
    /// The blobs that are to come.
    pub blobs: Vec<Blob>,
}

impl Call for OpenExchange {
    /// The port that it listens at.
    type Reply = u16;
    const NAME: &'static str = "open-exchange";
    const EFFECT: Effect = Effect::Adds;
}

/// Another agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Peer {
    /// The name in its certificate.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
}

/// Takes a piece from the controller: the call's data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PutPiece {
    /// Which one.
    pub piece: Piece,
}

impl Call for PutPiece {
    type Reply = ();
    const NAME: &'static str = "put-piece";
    const EFFECT: Effect = Effect::Adds;
}

/// Fetches a piece from another agent. Fails with
/// [`Kind::Unreachable`](crate::error::Kind::Unreachable) when the other does not
/// give it, and with [`Kind::Integrity`](crate::error::Kind::Integrity) when it
/// gives something else.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FetchPiece {
    /// Which one.
    pub piece: Piece,
    /// Who has it.
    pub from: Peer,
}

impl Call for FetchPiece {
    type Reply = ();
    const NAME: &'static str = "fetch-piece";
    const EFFECT: Effect = Effect::Adds;
}

/// Between agents: gives a piece as the reply's data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GetPiece {
    /// Which one.
    pub piece: Piece,
}

impl Call for GetPiece {
    type Reply = ();
    const NAME: &'static str = "get-piece";
    const EFFECT: Effect = Effect::Reads;
}

/// Puts the blobs that have come in pieces into the store. Other agents can still
/// fetch them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FinishBlobs {}

impl Call for FinishBlobs {
    type Reply = ();
    const NAME: &'static str = "finish-blobs";
    const EFFECT: Effect = Effect::Adds;
}
