//! How one member of the cluster's etcd is, by its own word.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::etcd::Etcd;
use crate::error::{Kind, Result, ResultExt};

/// Where kubeadm has etcd serve its metrics: on loopback, without TLS.
const METRICS: &str = "http://127.0.0.1:2381/metrics";
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

/// Asks the member that `etcd` is connected to.
pub async fn health(etcd: &Etcd) -> Result<EtcdHealth> {
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
        health.quota = quota_of_metrics().await.ok().flatten();
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
    }
}
