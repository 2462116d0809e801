//! `chasi node replace`: one host takes another's place.

use super::super::cluster::{Chosen, Edit, not_done};
use super::super::consent::Shown;
use super::super::{Shell, run};
use super::delete::{describe, settle};
use super::{Access, Going, known_hosts};
use crate::cluster::removal::{self, Arriving, Report};
use crate::cluster::{self, check::Selection, connect::Prepared as _};
use crate::error::{Error, Kind, Result};

/// Put a new host in the place of a node: it joins and is healthy first, then the
/// old one goes.
///
/// A control plane that is dead leaves etcd first, with `--force`: a fourth member
/// beside two that are alive would need three.
#[derive(clap::Args)]
pub struct Args {
    /// The node that goes.
    #[arg(value_name = "OLD")]
    old: String,
    /// The host that comes.
    #[arg(value_name = "NEW=ADDRESS")]
    new: String,
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    going: Going,
}

impl Args {
    /// Whether nothing will be changed.
    pub fn only_looks(&self) -> bool {
        self.going.consent.dry_run
    }

    /// Looks, asks, replaces.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let chosen = self.going.known.choose(shell)?;
        known_hosts(&chosen, std::slice::from_ref(&self.old))?;
        let hosts = &chosen.clusterfile.cluster.hosts;
        let Some(old) = hosts.get(&self.old) else {
            return Err(Error::new(Kind::NotFound, "there is no such host"));
        };
        let new = self.access.host(&self.new, old.roles)?;
        let both = chosen.edited(&[], std::slice::from_ref(&new))?;
        let after = chosen.edited(&[&self.old], &[new])?;
        let dead_member = self.going.force && old.roles.is_control_plane();
        shell.block_on(async {
            match dead_member {
                true => self.dead(shell, &chosen, &after).await,
                false => self.alive(shell, &both, &after).await,
            }
        })
    }

    /// A control plane that is dead: its member goes first.
    async fn dead(&self, shell: &Shell, chosen: &Chosen, after: &Edit) -> Result<()> {
        let prepared = self.prepare(shell, chosen, Vec::new()).await?;
        // While no API answers, nobody can say more.
        let is_lost = |step: &removal::Step| step.action == removal::Action::RecoverEtcd;
        if !prepared.plan.steps.iter().any(is_lost)
            && let Err(error) = self.check_new(shell, after).await
        {
            prepared.abandon().await;
            return Err(error);
        }
        let plan = format!(
            "{}\nThen `{}` joins: with the dead member still counted, it would be one of {} that need more than are alive.\n",
            describe(&prepared.plan),
            self.new,
            chosen.clusterfile.cluster.hosts.control_planes().count() + 1
        );
        let Some(prepared) = self.decide(shell, prepared, &plan, after).await? else {
            return Ok(());
        };
        let report = prepared.apply(shell.context()).await?;
        if self.going.write {
            after.write()?;
        }
        run::follow(shell, &after.chosen).await?;
        self.conclude(shell, after, &report)
    }

    /// Fails when something is wrong with the new host: the checks are made that come
    /// before it joins.
    async fn check_new(&self, shell: &Shell, after: &Edit) -> Result<()> {
        let asked = after
            .chosen
            .request_as_it_runs(shell, true, Selection::default());
        let (request, _running) = asked.await?;
        let prepared = cluster::run::prepare(shell.context(), request).await?;
        let left_out = prepared.plan.left_out.clone();
        prepared.abandon().await;
        let new = after.chosen.clusterfile.cluster.hosts.iter().last();
        let wrong = left_out
            .iter()
            .find(|one| new.is_some_and(|new| one.host == new.name.as_str()));
        match wrong {
            None => Ok(()),
            Some(one) => Err(Error::new(
                Kind::Check,
                format!(
                    "`{}` cannot take the place of `{}`; nothing was changed",
                    one.host, self.old
                ),
            )
            .and(one.error())),
        }
    }

    /// Any other: the new one is healthy first.
    async fn alive(&self, shell: &Shell, both: &Edit, after: &Edit) -> Result<()> {
        // Looked at before the new one joins: what cannot go is told now.
        let hosts = both.chosen.clusterfile.cluster.hosts.iter();
        let arriving = hosts.last().map(Arriving::of).into_iter().collect();
        let prepared = self.prepare(shell, &both.chosen, arriving).await?;
        let removal = prepared.plan.clone();
        let plan = format!(
            "`{}` joins and is healthy. Then:\n{}",
            self.new,
            describe(&removal)
        );
        let Some(prepared) = self.decide(shell, prepared, &plan, after).await? else {
            return Ok(());
        };
        prepared.abandon().await;
        let leaves = |step: &removal::Step| step.action == removal::Action::Leave;
        // Cut when the old one had been left already, the new one is there: to bring
        // the cluster to both would take the old one in again.
        if self.going.force || removal.steps.iter().any(leaves) {
            run::follow(shell, &both.chosen).await?;
        }
        let report = self
            .prepare(shell, &both.chosen, Vec::new())
            .await?
            .apply(shell.context())
            .await?;
        settle(shell, after, self.going.write && report.left_out.is_empty()).await?;
        self.conclude(shell, after, &report)
    }

    /// Those that are `arriving` count, although they have not joined yet.
    async fn prepare(
        &self,
        shell: &Shell,
        chosen: &Chosen,
        arriving: Vec<Arriving>,
    ) -> Result<removal::Prepared> {
        let names = std::slice::from_ref(&self.old);
        let request = self.going.request(shell, chosen, names)?;
        let request = removal::Request {
            arriving,
            ..request
        };
        removal::prepare(shell.context(), request).await
    }

    async fn decide(
        &self,
        shell: &Shell,
        prepared: removal::Prepared,
        plan: &str,
        after: &Edit,
    ) -> Result<Option<removal::Prepared>> {
        let value = prepared.plan.clone();
        let shown = Shown {
            text: plan,
            patch: after.tell(false),
            value: &value,
        };
        let question = format!("Replace `{}`?", self.old);
        let consent = &self.going.consent;
        consent
            .decide(shell, prepared, &shown, Some(&question))
            .await
    }

    fn conclude(&self, shell: &Shell, after: &Edit, report: &Report) -> Result<()> {
        let text = || {
            let done = format!("{} took the place of {}.\n", self.new, self.old);
            done + &after.tell(self.going.write)
        };
        self.going.consent.print(shell, report, text)?;
        not_done(&report.left_out)
    }
}
