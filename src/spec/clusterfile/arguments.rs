//! A cluster that is asked for on the command line, without a file:
//! `chasi run REF --masters 10.0.0.2,10.0.0.3-10.0.0.4 --nodes 10.0.0.5`.
//!
//! The words are read as if they were a file, so that errors point into them.

use std::path::{Path, PathBuf};

use super::access::{Places, default_login, default_privilege};
use super::draft::{Draft, Said};
use super::problem::{Problem, Problems};
use super::{Clusterfile, addresses};
use crate::error::{Error, Kind, Result};
use crate::spec::cluster::{Identities, Roles, SecretSource, Ssh};

/// What can be said of a cluster on the command line.
#[derive(Clone, Debug, Default)]
pub struct Arguments<'a> {
    /// The cluster image.
    pub image: &'a str,
    /// The cluster's name; `default` when there is none.
    pub name: Option<&'a str>,
    /// The addresses of control planes, with commas; ranges are possible.
    pub masters: &'a str,
    /// The addresses of workers, with commas; ranges are possible.
    pub nodes: &'a str,
    /// The user to log in as; `root` when there is none.
    pub user: Option<&'a str>,
    /// The port of the SSH servers; 22 when there is none.
    pub port: Option<u16>,
    /// Private keys to log in with; the user's usual ones when there are none.
    pub identity_files: Vec<PathBuf>,
    /// A file with the user's password.
    pub password_file: Option<PathBuf>,
    /// The home directory of the user, for the usual keys and known hosts.
    pub home: Option<&'a Path>,
}

impl Clusterfile {
    /// The cluster that arguments ask for.
    ///
    /// # Errors
    /// [`Kind::Usage`], pointing into the words that are wrong.
    pub fn from_arguments(arguments: &Arguments<'_>) -> Result<Self> {
        let words = Words::new(arguments);
        let problems = Problems::new("command line", &words.text).of_kind(Kind::Usage);
        let cluster = words
            .draft(arguments, &problems)
            .and_then(|draft| draft.finish(&problems));
        let warnings = problems.finish()?;
        match cluster {
            Some(cluster) => Ok(Clusterfile { cluster, warnings }),
            None => Err(Error::new(Kind::Usage, "the arguments describe no cluster")),
        }
    }
}

/// The words as one text, and where each begins in it.
struct Words {
    text: String,
    image: usize,
    name: usize,
    user: usize,
    masters: usize,
    nodes: usize,
}

impl Words {
    fn new(arguments: &Arguments<'_>) -> Self {
        let mut text = String::from("chasi run ");
        let mut add = |option: &str, value: &str| {
            if !value.is_empty() {
                text.push_str(option);
            }
            let start = text.len();
            text.push_str(value);
            start
        };
        let image = add("", arguments.image);
        let name = add(" --name ", arguments.name.unwrap_or_default());
        let user = add(" --user ", arguments.user.unwrap_or_default());
        let masters = add(" --masters ", arguments.masters);
        let nodes = add(" --nodes ", arguments.nodes);
        Words {
            text,
            image,
            name,
            user,
            masters,
            nodes,
        }
    }

    fn draft(&self, arguments: &Arguments<'_>, problems: &Problems<'_>) -> Option<Draft> {
        let image = parse(arguments.image, self.image, problems);
        let name = parse(arguments.name.unwrap_or("default"), self.name, problems);
        let ssh = self.ssh(arguments, problems)?;
        let mut hosts = Vec::new();
        let lists = [
            (arguments.masters, self.masters, Roles::ControlPlane),
            (arguments.nodes, self.nodes, Roles::Worker),
        ];
        for (list, start, roles) in lists {
            for item in items(list, start) {
                let addresses = addresses::expand(&item, problems);
                hosts.extend(
                    addresses.into_iter().filter_map(|address| {
                        addresses::draft(address, roles, ssh.clone(), problems)
                    }),
                );
            }
        }
        if arguments.masters.trim().is_empty() {
            problems.add(
                Problem::new(0..0, "no host is a control plane")
                    .hint("name at least one host with `--masters`, or use `-f Clusterfile`"),
            );
        }
        let span = self.masters..self.masters + arguments.masters.len();
        let mut draft = Draft::new(name?, image?, Said::new(hosts, &span));
        // The names are made up, so the hosts keep their own.
        draft.settings.set_hostname = false;
        Some(draft)
    }

    fn ssh(&self, arguments: &Arguments<'_>, problems: &Problems<'_>) -> Option<Ssh> {
        let places = Places {
            base: Path::new(""),
            home: arguments.home,
        };
        let mut login = default_login(places)?;
        if let Some(user) = arguments.user {
            login.user = parse(user, self.user, problems)?;
        }
        login.port = arguments.port.unwrap_or(login.port);
        if !arguments.identity_files.is_empty() {
            login.identities = Identities::Named(arguments.identity_files.clone());
        }
        login.password = arguments.password_file.clone().map(SecretSource::File);
        Some(Ssh {
            privilege: default_privilege(&login.user),
            login,
            jump: None,
        })
    }
}

fn parse<T: std::str::FromStr<Err = crate::spec::text::Invalid>>(
    text: &str,
    start: usize,
    problems: &Problems<'_>,
) -> Option<T> {
    match text.parse() {
        Ok(value) => Some(value),
        Err(invalid) => {
            problems.say(&(start..start + text.len()), invalid.to_string());
            None
        }
    }
}

/// The items of a list with commas, each with its place.
fn items(list: &str, start: usize) -> impl Iterator<Item = Said<&str>> {
    let mut next = start;
    list.split(',').filter_map(move |item| {
        let span = next..next + item.len();
        next = span.end + 1;
        (!item.trim().is_empty()).then(|| Said::new(item, &span))
    })
}
