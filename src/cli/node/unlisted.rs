//! Nodes that the Clusterfile does not name any more, as `chasi run` meets them: shown,
//! asked for apart, and deleted once the others are as it says.

use serde::Serialize;

use super::super::Shell;
use super::super::cluster::Chosen;
use super::super::consent::Consent;
use super::delete::steps;
use crate::cluster::connect::{LeftOut, Prepared as _};
use crate::cluster::removal::{self, Report};
use crate::cluster::run;
use crate::cluster::unlisted::Unlisted;
use crate::error::{Error, Kind, Result};
use crate::kube::drain::Options;

/// Whether they are deleted.
#[derive(clap::Args)]
pub struct Unlisting {
    /// Delete nodes that the Clusterfile does not name any more, as `chasi node delete`
    /// does, once the others are as it says. Without, it is asked on a terminal, and
    /// elsewhere they stay: `--yes` is no answer to that.
    #[arg(long)]
    delete_unlisted: bool,
}

/// What was found out about them before anything was changed.
#[derive(Default)]
pub struct Departure {
    /// The cluster with those that can go, and what is done then.
    removal: Option<(Chosen, removal::Plan)>,
    /// Those that cannot, and why.
    stay: Vec<LeftOut>,
}

/// The part of a plan that is about them, beside the plan itself.
#[derive(Serialize)]
pub struct Planned<'a, T> {
    /// The plan of the others.
    #[serde(flatten)]
    plan: &'a T,
    /// What is done afterwards with those that go.
    #[serde(skip_serializing_if = "Option::is_none")]
    removal: Option<&'a removal::Plan>,
    /// Those that cannot go, and why.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    unlisted_staying: &'a [LeftOut],
}

impl Unlisting {
    /// Looks whether they can go when those that are to come have come. Fails only when
    /// it was said that they go.
    pub async fn look(
        &self,
        shell: &Shell,
        chosen: &Chosen,
        prepared: &run::Prepared,
        drain: &Options,
    ) -> Result<Departure> {
        let mut going: Vec<Unlisted> = prepared.plan.unlisted.clone();
        let mut departure = Departure::default();
        while !going.is_empty() {
            let error = match self.look_at(shell, chosen, &going, prepared, drain).await {
                Ok(removal) => {
                    departure.removal = Some(removal);
                    break;
                }
                Err(error) if error.kind() == Kind::Interrupted => return Err(error),
                Err(error) => error,
            };
            // One that cannot be reached does not keep the others from going.
            let dead = error.host().filter(|_| error.kind() == Kind::Unreachable);
            let dead = going.iter().position(|one| Some(one.name.as_str()) == dead);
            match dead {
                Some(at) => {
                    let name = going.remove(at).name;
                    departure
                        .stay
                        .push(LeftOut::because(&name, &advised(error, &name)));
                }
                None if self.delete_unlisted => return Err(error),
                None => {
                    let stay = going.drain(..);
                    let stay = stay.map(|one| LeftOut::because(one.name, &error));
                    departure.stay.extend(stay);
                }
            }
        }
        Ok(departure)
    }

    async fn look_at(
        &self,
        shell: &Shell,
        chosen: &Chosen,
        going: &[Unlisted],
        prepared: &run::Prepared,
        drain: &Options,
    ) -> Result<(Chosen, removal::Plan)> {
        let with = chosen.with_unlisted(going)?;
        let drain = drain.clone();
        let mut request = with.removal(shell, &names(going), false, drain, true)?;
        request.arriving = prepared.arriving.clone();
        // Those that are to come have nothing to say yet, and one that something is wrong
        // with was told.
        let comes = |name: &str| prepared.arriving.iter().any(|one| one.name == name);
        let is_out = |name: &str| prepared.plan.left_out.iter().any(|one| one.host == name);
        let targets = &mut request.targets;
        targets.retain(|target| !comes(&target.name) && !is_out(&target.name));
        let prepared = removal::prepare(shell.context(), request).await?;
        let plan = prepared.plan.clone();
        prepared.abandon().await;
        Ok((with, plan))
    }

    /// Whether it was said that they go.
    pub fn is_said(&self) -> bool {
        self.delete_unlisted
    }

    /// Whether those that can go are to go: it was said, or is said now. What that
    /// would be is shown, if it was not `shown` just before.
    pub async fn is_wanted(
        &self,
        shell: &Shell,
        consent: &Consent,
        departure: &Departure,
        shown: bool,
    ) -> bool {
        let Some((_, plan)) = &departure.removal else {
            return false;
        };
        let question = format!(
            "Delete {}, which the Clusterfile does not name any more?",
            plan.nodes().join(", ")
        );
        let text = match shown {
            true => String::new(),
            false => departure.describe(),
        };
        self.delete_unlisted || consent.ask_apart(shell, &text, &question).await
    }

    /// Deletes those that can go; what speaks against it is asked anew.
    pub async fn delete(
        &self,
        shell: &Shell,
        departure: &Departure,
        drain: Options,
    ) -> Result<Report> {
        let Some((with, plan)) = &departure.removal else {
            return Ok(Report::default());
        };
        let request = with.removal(shell, &plan.nodes(), false, drain, false)?;
        let prepared = removal::prepare(shell.context(), request).await?;
        prepared.apply(shell.context()).await
    }
}

impl Departure {
    /// Whether something is deleted when that is wanted.
    pub fn is_possible(&self) -> bool {
        self.removal.is_some()
    }

    /// Itself beside the plan of the others.
    pub fn beside<'a, T>(&'a self, plan: &'a T) -> Planned<'a, T> {
        Planned {
            plan,
            removal: self.removal.as_ref().map(|(_, plan)| plan),
            unlisted_staying: &self.stay,
        }
    }

    /// It for people.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        if let Some((_, plan)) = &self.removal {
            text += &format!(
                "\nThe Clusterfile does not name {} any more. Afterwards, when that is wanted:\n\n{}",
                plan.nodes().join(", "),
                steps(plan)
            );
        }
        for one in &self.stay {
            text += &format!(
                "\nThe Clusterfile does not name {} any more, and it cannot be deleted: {}\n",
                one.host, one.reason
            );
            let hints = one.hints.iter().map(|hint| format!("  {hint}\n"));
            text.extend(hints);
        }
        text
    }

    /// Says which nodes stay, and what deletes them: all of them, or those that cannot go.
    /// They may wait for hosts that have not come.
    pub fn tell_staying(&self, shell: &Shell, all: bool, waits_for: &[String]) {
        let stays = |name: &str| {
            format!("{name} stays, although the Clusterfile does not name it any more")
        };
        if let Some((_, plan)) = self.removal.as_ref().filter(|_| all) {
            let names = plan.nodes();
            let why = match waits_for {
                [] => "`--delete-unlisted` deletes it".to_owned(),
                hosts => format!("first {} must have come", hosts.join(", ")),
            };
            shell.context().warn(format!(
                "{}: {why}; `chasi node delete {}` does it by itself",
                stays(&names.join(", ")),
                names.join(" ")
            ));
        }
        for one in &self.stay {
            let hints: Vec<String> = one.hints.iter().map(|hint| format!("; {hint}")).collect();
            let text = format!("{}: {}{}", stays(&one.host), one.reason, hints.concat());
            shell.context().warn(text);
        }
    }
}

fn names(nodes: &[Unlisted]) -> Vec<String> {
    nodes.iter().map(|one| one.name.clone()).collect()
}

/// A node whose host cannot be reached, and what to type.
fn advised(error: Error, name: &str) -> Error {
    let told = Error::new(Kind::Unreachable, "its host cannot be reached");
    told.because(error).hint(format!(
        "make it reachable and run this again; or `chasi node delete {name} --force`, when it is gone for good"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_cannot_go_is_told_with_what_to_type() {
        let error = Error::new(Kind::Unreachable, "no route to host");
        let departure = Departure {
            removal: None,
            stay: vec![LeftOut::because("w3", &advised(error, "w3"))],
        };
        insta::assert_snapshot!(departure.describe(), @r"

        The Clusterfile does not name w3 any more, and it cannot be deleted: its host cannot be reached: no route to host
          make it reachable and run this again; or `chasi node delete w3 --force`, when it is gone for good
        ");
        let value = serde_json::to_value(departure.beside(&serde_json::json!({"cluster": "shop"})));
        let value = value.unwrap();
        assert_eq!(value["cluster"], "shop");
        assert_eq!(value["unlisted_staying"][0]["host"], "w3");
        assert!(value.get("removal").is_none());
        // Of a cluster that is as the Clusterfile says, nothing is told.
        let nothing = Departure::default();
        assert_eq!(nothing.describe(), "");
        let value = serde_json::to_value(nothing.beside(&serde_json::json!({}))).unwrap();
        assert_eq!(value, serde_json::json!({}));
    }
}
