//! The steps of a run that makes a cluster from a backup.

use super::super::backup::put_snapshot;
use super::super::desired::DesiredHost;
use super::super::plan::Action;
use super::Run;
use crate::agent::Client;
use crate::agent::calls::backup::{BeginRestore, EndRestore, RestoreEtcd};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::event::Event;

impl Run<'_> {
    /// Does one of them.
    pub(super) async fn restore_step(
        &self,
        client: &Client,
        host: &DesiredHost,
        action: &Action,
    ) -> Result<()> {
        match action {
            Action::BeginRestore { backup } => self.begin_restore(client, *backup).await,
            Action::RestoreEtcd => self.restore_etcd(client, host).await,
            _ => self.end_restore(client, host).await,
        }
    }

    /// Notes on a control plane that the cluster is being made from a backup.
    async fn begin_restore(&self, client: &Client, backup: Digest) -> Result<()> {
        let history = self.restore.and_then(|one| one.history.clone());
        client.call(BeginRestore { backup, history }).await
    }

    /// Gives a host's etcd the data of the backup.
    async fn restore_etcd(&self, client: &Client, host: &DesiredHost) -> Result<()> {
        let restore = self
            .restore
            .ok_or_else(|| Error::new(Kind::Failed, "there is no backup to restore"))?;
        put_snapshot(self.context, restore, client).await?;
        let call = RestoreEtcd {
            name: host.node.name.clone(),
            identity: host.identity,
            index: self.index.clone(),
            token: restore.token(),
        };
        client.call(call).await
    }

    /// Ends a restore on a control plane, and tells which nodes are no more.
    async fn end_restore(&self, client: &Client, host: &DesiredHost) -> Result<()> {
        let call = EndRestore {
            address: host.node.node_ip(),
            nodes: self.listed.clone(),
        };
        for node in client.call(call).await? {
            self.context.emit(Event::Note {
                host: None,
                text: format!(
                    "the node `{node}` is in the backup and not in the Clusterfile: its object was removed"
                ),
            });
        }
        Ok(())
    }
}
