//! Requests about the members of the cluster's etcd.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::super::{Call, Effect};
use crate::distro::EtcdMember;

/// The members, as the one on this host knows them; needs no majority.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadEtcd {
    /// The address of the member on this host.
    pub via: IpAddr,
}

impl Call for ReadEtcd {
    type Reply = Vec<EtcdMember>;
    const NAME: &'static str = "read-etcd";
    const EFFECT: Effect = Effect::Reads;
}

/// Adds a host to the members of the cluster's etcd, unless it is one. It learns
/// until it is promoted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AddEtcdMember {
    /// The address of a member to ask.
    pub via: IpAddr,
    /// The address of the new one.
    pub address: IpAddr,
}

impl Call for AddEtcdMember {
    type Reply = ();
    const NAME: &'static str = "add-etcd-member";
    const EFFECT: Effect = Effect::Changes;
}

/// Lets a member vote, as soon as it has learned enough.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PromoteEtcdMember {
    /// The address of a member to ask.
    pub via: IpAddr,
    /// The address of the one that learns.
    pub address: IpAddr,
    /// How long to wait, in seconds.
    pub seconds: u64,
}

impl Call for PromoteEtcdMember {
    type Reply = ();
    const NAME: &'static str = "promote-etcd-member";
    const EFFECT: Effect = Effect::Changes;
}

/// Makes the etcd on this host a cluster of its own, from its own data. For when
/// those that had the majority are gone for good. Done already, it does nothing;
/// interrupted, it goes on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecoverEtcd {
    /// The address of the member on this host.
    pub address: IpAddr,
    /// How long it may take, in seconds, until the API answers.
    pub seconds: u64,
}

impl Call for RecoverEtcd {
    type Reply = ();
    const NAME: &'static str = "recover-etcd";
    const EFFECT: Effect = Effect::Changes;
}

/// Takes a host out of the members, if it is one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RemoveEtcdMember {
    /// The address of a member to ask.
    pub via: IpAddr,
    /// The address of the one that goes.
    pub address: IpAddr,
}

impl Call for RemoveEtcdMember {
    type Reply = ();
    const NAME: &'static str = "remove-etcd-member";
    const EFFECT: Effect = Effect::Changes;
}
