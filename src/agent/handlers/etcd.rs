//! The members of the cluster's etcd, by way of one of them.

use std::time::Duration;

use super::distro::root;
use super::distro::wait_api;
use crate::agent::Scope;
use crate::agent::calls::distro::WaitApi;
use crate::agent::calls::etcd::{
    AddEtcdMember, PromoteEtcdMember, ReadEtcd, RecoverEtcd, RemoveEtcdMember,
};
use crate::distro::EtcdMember;
use crate::distro::kubeadm::{etcd::Etcd, recovery};
use crate::error::Result;

pub(super) async fn read(_: Scope, call: ReadEtcd) -> Result<Vec<EtcdMember>> {
    Etcd::open(root(), call.via)?.members().await
}

pub(super) async fn add(_: Scope, call: AddEtcdMember) -> Result<()> {
    Etcd::open(root(), call.via)?.add(call.address).await
}

pub(super) async fn promote(scope: Scope, call: PromoteEtcdMember) -> Result<()> {
    let patience = Duration::from_secs(call.seconds);
    Etcd::open(root(), call.via)?
        .promote(call.address, patience, &scope.gone)
        .await
}

pub(super) async fn remove(_: Scope, call: RemoveEtcdMember) -> Result<()> {
    Etcd::open(root(), call.via)?.remove(call.address).await
}

pub(super) async fn recover(scope: Scope, call: RecoverEtcd) -> Result<()> {
    let patience = Duration::from_secs(call.seconds);
    recovery::recover(root(), call.address, patience).await?;
    let ready = WaitApi {
        address: call.address,
        seconds: call.seconds,
    };
    wait_api(scope, ready).await
}
