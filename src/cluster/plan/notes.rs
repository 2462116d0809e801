//! What is to be said of a plan beside its steps.

use super::{Action, Direction, Stages, Step, Subject};
use crate::distro::kubeadm::etcd_version::Stays;

impl Stages {
    /// What is to be said beside the steps.
    pub(super) fn notes(&self, hosts: &[Subject]) -> Vec<String> {
        let mut notes = Vec::new();
        let prunes = |step: &Step| matches!(step.action, Action::ApplyObjects { prune: true, .. });
        if self.steps.iter().any(|(_, step)| prunes(step)) {
            notes.push(
                "the cluster's own objects that only came later are deleted, but for namespaces, custom resource definitions and volumes"
                    .to_owned(),
            );
        }
        if self.direction == Direction::Back {
            notes.push(
                "etcd's data stays: what was written to the API meanwhile is kept".to_owned(),
            );
        }
        let stays = hosts
            .iter()
            .filter_map(|one| Some((one, one.host.etcd_stays.as_ref()?)));
        let mut groups: Vec<(&Stays, Vec<&str>)> = Vec::new();
        for (subject, stays) in stays {
            let name = subject.host.node.name.as_str();
            match groups.iter_mut().find(|(same, _)| *same == stays) {
                Some((_, names)) => names.push(name),
                None => groups.push((stays, vec![name])),
            }
        }
        for (stays, names) in groups {
            notes.push(format!(
                "etcd stays {} on {}: {} of the image does not start on its data",
                stays.runs,
                names.join(", "),
                stays.image
            ));
        }
        notes
    }
}
