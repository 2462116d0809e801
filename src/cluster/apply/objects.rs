//! What control planes have recorded of the cluster's own objects.

use super::Run;
use crate::agent::calls::distro::ReadObjects;
use crate::error::{Error, Kind, Result};
use crate::kube::ObjectName;

impl Run<'_> {
    /// The cluster's own objects that any control plane has recorded: after a run that
    /// failed, they have not all recorded the same.
    pub(super) async fn all_recorded_objects(&self) -> Vec<ObjectName> {
        let mut all: Vec<ObjectName> = Vec::new();
        for host in self.control_planes() {
            let Ok(client) = self.client(&host.node.name) else {
                continue;
            };
            // What one that is lost by now knows, the others do as well.
            let objects = client.call(ReadObjects {}).await.unwrap_or_default();
            for object in objects {
                if !all.contains(&object) {
                    all.push(object);
                }
            }
        }
        all
    }

    /// The cluster's own objects as another control plane recorded them.
    pub(super) async fn recorded_objects(&self, host: &str) -> Result<Vec<ObjectName>> {
        let others = self
            .control_planes()
            .filter(|other| other.node.name != host)
            .filter_map(|other| self.client(&other.node.name).ok());
        for other in others {
            // One that is lost by now is not the only one that knows.
            match other.call(ReadObjects {}).await {
                Ok(objects) if !objects.is_empty() => return Ok(objects),
                _ => {}
            }
        }
        Err(Error::new(
            Kind::Failed,
            "no control plane knows which objects were applied",
        ))
    }
}
