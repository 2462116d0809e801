//! Kubelets' credentials: keys that stay on their hosts, signed by a control plane.

use std::sync::{Arc, Mutex};

use futures::future::join_all;

use super::super::plan::Stage;
use super::{Outcome, Run, fail, has_failed, note};
use crate::agent::calls::distro::{InstallCredential, RequestCredential, SignCredentials};
use crate::distro::Role;
use crate::distro::kubeadm::credential::Server;

impl Run<'_> {
    /// Requests from all hosts, one visit to the authority, certificates to all.
    pub(super) async fn credentials(&self, stage: &Stage, outcome: &Mutex<Outcome>) {
        let asked = join_all(
            stage
                .steps
                .iter()
                .filter(|step| !has_failed(outcome, &step.host))
                .map(|step| async move {
                    let node = step.host.clone();
                    let request = match self.client(&step.host) {
                        Ok(client) => client.call(RequestCredential { node }).await,
                        Err(error) => Err(error),
                    };
                    (step, request)
                }),
        )
        .await;
        let mut requests = Vec::new();
        for (step, request) in asked {
            match request {
                Ok(request) => requests.push((step, request)),
                Err(error) => note(outcome, step, Err(error)),
            }
        }
        let hours = self.desired.cluster.certificate_hours;
        let signing = async {
            let requests = requests
                .iter()
                .map(|(_, request)| request.clone())
                .collect();
            self.authority("")
                .await?
                .call(SignCredentials { requests, hours })
                .await
        };
        let signed = match signing.await {
            Ok(signed) => signed,
            Err(error) => {
                let error = Arc::new(error);
                for (step, _) in &requests {
                    fail(outcome, &step.host, Arc::clone(&error));
                }
                return;
            }
        };
        join_all(
            requests
                .iter()
                .zip(signed)
                .map(|((step, _), signed)| async move {
                    let work = async {
                        let host = self.host(&step.host)?;
                        let server = match host.node.role {
                            Role::ControlPlane => Server::Local(host.node.node_ip()),
                            Role::Worker => Server::Balancer(self.desired.cluster.endpoint()),
                        };
                        let cluster = self.desired.cluster.name.clone();
                        self.client(&step.host)?
                            .call(InstallCredential {
                                signed,
                                cluster,
                                server,
                            })
                            .await
                    };
                    let result = self
                        .context
                        .step(Some(&step.host), step.action.describe(), work)
                        .await;
                    note(outcome, step, result);
                }),
        )
        .await;
    }
}
