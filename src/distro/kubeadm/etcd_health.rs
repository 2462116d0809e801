//! How one member of the cluster's etcd is, by its own word.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::etcd::Etcd;
use crate::error::{Kind, Result, ResultExt};

/// Where kubeadm has etcd serve its metrics: on loopback, without TLS.
const METRICS: &str = "http://127.0.0.1:2381/metrics";
/// The static pod of etcd.
const MANIFEST: &str = "etc/kubernetes/manifests/etcd.yaml";
/// etcd's default (`DefaultQuotaBytes` in server/storage/quota.go), in bytes.
const DEFAULT_QUOTA: u64 = 2 << 30;
const PATIENCE: Duration = Duration::from_secs(5);

/// How a member of etcd is.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct EtcdHealth {
    /// etcd's version.
    pub version: String,
    /// The names of all members; empty for one that has never started.
    pub members: Vec<String>,
    /// The size of the database on the disk, in bytes.
    pub size: u64,
    /// How large it may become; none where it does not say.
    pub quota: Option<u64>,
    /// Alarms that are raised, such as `NOSPACE` and `CORRUPT`.
    pub alarms: Vec<String>,
    /// Whether there is a leader.
    pub has_leader: bool,
    /// Whether this member has not got all data yet and does not vote.
    pub learner: bool,
    /// Why it does not answer a read that a majority must confirm.
    pub no_quorum: Option<String>,
}

/// Asks the member that `etcd` is connected to, on the host whose root directory is
/// `root`.
pub async fn health(etcd: &Etcd, root: &Path) -> Result<EtcdHealth> {
    let status = etcd.ask("/v3/maintenance/status", &json!({})).await?;
    let alarm = json!({ "action": "GET" });
    let alarms = etcd.ask("/v3/maintenance/alarm", &alarm).await?;
    // The key `health`, which etcd's own health check reads (`etcdctl endpoint health`).
    let key = json!({ "key": "aGVhbHRo" });
    let read = etcd.ask("/v3/kv/range", &key).await;
    let mut health = parse(&status, &alarms);
    health.no_quorum = read.err().map(|error| error.to_string());
    health.members = etcd
        .members()
        .await?
        .into_iter()
        .map(|member| member.name)
        .collect();
    if health.quota.is_none() {
        let told = quota_of_metrics().await.ok().flatten();
        let manifest = || std::fs::read_to_string(root.join(MANIFEST)).ok();
        health.quota = told.or_else(|| quota_of_manifest(&manifest()?));
    }
    Ok(health)
}

/// A number, which the JSON form of the API writes as text.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

fn parse(status: &Value, alarms: &Value) -> EtcdHealth {
    let alarms = alarms["alarms"].as_array().into_iter().flatten();
    EtcdHealth {
        version: status["version"].as_str().unwrap_or_default().to_owned(),
        members: Vec::new(),
        size: number(&status["dbSize"]).unwrap_or_default(),
        // Since etcd 3.6.
        quota: number(&status["dbSizeQuota"]).filter(|quota| *quota > 0),
        alarms: alarms
            .filter_map(|alarm| alarm["alarm"].as_str())
            .filter(|alarm| *alarm != "NONE")
            .map(str::to_owned)
            .collect(),
        has_leader: number(&status["leader"]).is_some_and(|leader| leader != 0),
        learner: status["isLearner"].as_bool().unwrap_or(false),
        no_quorum: None,
    }
}

async fn quota_of_metrics() -> Result<Option<u64>> {
    let cannot = || "etcd's metrics cannot be read";
    let client = reqwest::Client::builder()
        .timeout(PATIENCE)
        .no_proxy()
        .build()
        .or_err(Kind::Failed, cannot)?;
    let response = client.get(METRICS).send().await;
    let text = response
        .or_err(Kind::Failed, cannot)?
        .text()
        .await
        .or_err(Kind::Failed, cannot)?;
    Ok(quota(&text))
}

/// In the text format of Prometheus; large numbers are written as `2.147483648e+09`.
fn quota(metrics: &str) -> Option<u64> {
    let value = metrics
        .lines()
        .find_map(|line| line.strip_prefix("etcd_server_quota_backend_bytes "))?;
    let bytes: f64 = value.trim().parse().ok()?;
    (bytes >= 1.0).then_some(bytes as u64)
}

/// What etcd was started with. Without the flag, or with 0, it is etcd's own default.
fn quota_of_manifest(manifest: &str) -> Option<u64> {
    let mut flags = manifest
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- --quota-backend-bytes="));
    match flags.next() {
        None => Some(DEFAULT_QUOTA),
        // A negative one is no quota at all.
        Some(value) => match value.trim_matches(['"', '\'']).parse::<i64>().ok()? {
            0 => Some(DEFAULT_QUOTA),
            bytes => u64::try_from(bytes).ok(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_etcd_says_is_understood() {
        let status = json!({
            "version": "3.6.5", "dbSize": "24576", "leader": "1234", "dbSizeQuota": "2147483648",
        });
        let alarms = json!({ "alarms": [{ "memberID": "1", "alarm": "NOSPACE" }] });
        let found = parse(&status, &alarms);
        assert_eq!((found.size, found.quota), (24_576, Some(2 << 30)));
        assert_eq!(
            (found.alarms, found.has_leader),
            (vec!["NOSPACE".to_owned()], true)
        );
        // One without a leader leaves the field out.
        let found = parse(&json!({ "version": "3.5.24" }), &json!({}));
        assert!(!found.has_leader && found.quota.is_none() && found.alarms.is_empty());
        let metrics = "# HELP x\netcd_server_quota_backend_bytes 2.147483648e+09\n";
        assert_eq!(quota(metrics), Some(2 << 30));
        assert_eq!(quota("etcd_server_quota_backend_bytes 0\n"), None);
        for (flag, expected) in [
            ("", Some(DEFAULT_QUOTA)),
            ("    - --quota-backend-bytes=8589934592\n", Some(8 << 30)),
            ("    - --quota-backend-bytes=0\n", Some(DEFAULT_QUOTA)),
            ("    - --quota-backend-bytes=-1\n", None),
        ] {
            let manifest = format!("    - etcd\n    - --data-dir=/var/lib/etcd\n{flag}");
            assert_eq!(quota_of_manifest(&manifest), expected, "{flag}");
        }
    }
}
