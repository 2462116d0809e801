//! `chasi lab`: throwaway hosts on this machine.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use super::{Format, Shell, Table, config};
use crate::error::{Error, Kind, Result};
use crate::file;
use crate::lab::{
    Clusterfile, Condition, Lab, LabStatus, Link, Loss, MOST_HOSTS, Mtu, Name, Places, Power, Rate,
    Request,
};

/// Throwaway hosts on this machine, for trying chasi and for tests
#[derive(Parser)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Up(Up),
    Clusterfile(ClusterfileOf),
    Down(Down),
    List(List),
    Ssh(Ssh),
    Exec(Exec),
    /// Crash hosts: everything on them ends at once, their disks stay
    Kill(Hosts),
    /// Power hosts off cleanly and wait until they are off
    Poweroff(Timed),
    /// Boot hosts that are off and wait until they can be reached
    Start(Timed),
    /// Give hosts fresh disks and boot them; names, addresses and keys stay
    Reset(Timed),
    Net(Net),
}

/// The lab that is meant
#[derive(clap::Args)]
struct Which {
    /// The lab's name
    #[arg(long, default_value = "lab", env = "CHASI_LAB")]
    name: Name,
}

/// Make hosts and wait until they can be reached over SSH
///
/// Prints the sections `ssh` and `hosts` of a Clusterfile for them.
#[derive(clap::Args)]
struct Up {
    #[command(flatten)]
    which: Which,
    /// How many hosts
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=i64::from(MOST_HOSTS)))]
    hosts: u8,
    /// How many network interfaces each host has; with two, SSH uses the first and
    /// Kubernetes the second
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    nics: u8,
    #[command(flatten)]
    output: Output,
    /// A process that the lab is for: once it is gone, `down --stale` removes the lab
    #[arg(long, value_name = "PID")]
    owner: Option<u32>,
    /// Where Debian's packages come from [default: Debian's own servers]
    #[arg(long, value_name = "URL", env = "CHASI_LAB_MIRROR")]
    mirror: Option<String>,
    /// How long the hosts may take to boot, in seconds
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    timeout: u64,
}

/// Print the sections `ssh` and `hosts` of a Clusterfile, or a whole one
#[derive(clap::Args)]
struct ClusterfileOf {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    output: Output,
}

/// The Clusterfile
#[derive(clap::Args)]
struct Output {
    /// How many hosts, the first ones, are control planes [default: three at most,
    /// and one less than there are hosts]
    #[arg(long, value_name = "N")]
    masters: Option<usize>,
    /// The user that chasi logs in as: `root`, or `ops`, who uses sudo
    #[arg(long, default_value = "root")]
    user: String,
    /// Give nodes an IPv6 address as well
    #[arg(long)]
    dual_stack: bool,
    /// Make a whole Clusterfile, for this cluster image
    #[arg(long, value_name = "REF")]
    image: Option<String>,
    /// Write it to this file instead of standard output
    #[arg(long, value_name = "FILE", requires = "image")]
    write: Option<PathBuf>,
}

/// Remove a lab and everything that was made for it
#[derive(clap::Args)]
struct Down {
    #[command(flatten)]
    which: Which,
    /// Remove all labs
    #[arg(long, conflicts_with_all = ["name", "stale"])]
    all: bool,
    /// Remove the labs that nobody uses any more: those from before a reboot, and
    /// those whose owner or hosts are gone
    #[arg(long, conflicts_with = "name")]
    stale: bool,
}

/// Show the labs and their hosts
#[derive(clap::Args)]
struct List {
    /// How to show them
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// Log in to a host, or run a command there
#[derive(clap::Args)]
struct Ssh {
    #[command(flatten)]
    which: Which,
    /// The user: `root`, `admin` (sudo asks for the password `chasi-lab`) or
    /// `ops` (sudo asks for nothing)
    #[arg(long, short = 'l', default_value = "root")]
    user: String,
    /// The host
    host: String,
    /// The command, after `--`
    #[arg(last = true)]
    command: Vec<OsString>,
}

/// Run a command on a host as root without SSH, and end with its exit code
#[derive(clap::Args)]
struct Exec {
    #[command(flatten)]
    which: Which,
    /// The host
    host: String,
    /// The command, after `--`
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

#[derive(clap::Args)]
struct Hosts {
    #[command(flatten)]
    which: Which,
    /// The hosts
    #[arg(required = true)]
    hosts: Vec<String>,
}

#[derive(clap::Args)]
struct Timed {
    #[command(flatten)]
    hosts: Hosts,
    /// How long it may take, in seconds
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    timeout: u64,
}

/// Change the condition of a host's network link
#[derive(clap::Args)]
struct Net {
    #[command(flatten)]
    which: Which,
    /// The host
    host: String,
    /// Which interface, from 1 [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=2))]
    nic: Option<u8>,
    /// What happens to the link
    #[arg(value_enum)]
    what: Change,
    /// For `limit` a rate such as `10mbit`, for `lose` percent, for `mtu` bytes
    value: Option<String>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Change {
    /// Nothing passes any more
    Cut,
    /// Everything is as at the beginning
    Restore,
    /// At most so many bits a second pass in each direction
    Limit,
    /// So many percent of the packets are lost in each direction
    Lose,
    /// Packets have at most so many bytes
    Mtu,
}

impl Args {
    /// Runs the command.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let places = places()?;
        match self.command {
            Command::Up(up) => up.run(shell, &places),
            Command::Clusterfile(of) => {
                let lab = Lab::open(&places, &of.which.name)?.describe()?;
                of.output.write(shell, &lab)
            }
            Command::Down(down) => down.run(shell, &places),
            Command::List(list) => list.run(shell, &places),
            Command::Ssh(ssh) => {
                let mut command = Lab::open(&places, &ssh.which.name)?.ssh(&ssh.host, &ssh.user)?;
                if !ssh.command.is_empty() {
                    command.arg("--").args(&ssh.command);
                }
                become_program(command)
            }
            Command::Exec(exec) => {
                let lab = Lab::open(&places, &exec.which.name)?;
                let mut command = lab.command(&exec.host, &exec.command)?;
                if let Some(terminal) = std::env::var_os("TERM") {
                    command.env("TERM", terminal);
                }
                become_program(command)
            }
            Command::Kill(hosts) => {
                Lab::open_locked(&places, &hosts.which.name)?.kill(&hosts.hosts)
            }
            Command::Poweroff(timed) => timed.run(shell, &places, Lab::power_off),
            Command::Start(timed) => timed.run(shell, &places, Lab::start),
            Command::Reset(timed) => timed.run(shell, &places, Lab::reset),
            Command::Net(net) => net.run(&places),
        }
    }
}

impl Up {
    fn run(self, shell: &Shell, places: &Places) -> Result<()> {
        self.output.masters(usize::from(self.hosts))?;
        let request = Request {
            name: self.which.name,
            hosts: self.hosts,
            nics: self.nics,
            owner: self.owner,
            mirror: self.mirror,
            timeout: Duration::from_secs(self.timeout),
        };
        let lab = shell.blocking(|context| Lab::up(context, places, &request)?.describe())?;
        self.output.write(shell, &lab)
    }
}

impl Output {
    /// How many of so many hosts are control planes.
    fn masters(&self, hosts: usize) -> Result<usize> {
        let masters = self
            .masters
            .unwrap_or_else(|| hosts.saturating_sub(1).clamp(1, 3));
        if masters == 0 || masters > hosts {
            let message = format!("{masters} of {hosts} hosts cannot be control planes");
            return Err(Error::new(Kind::Usage, message));
        }
        Ok(masters)
    }

    fn write(&self, shell: &Shell, lab: &LabStatus) -> Result<()> {
        let clusterfile = Clusterfile {
            lab,
            masters: self.masters(lab.hosts.len())?,
            user: &self.user,
            dual_stack: self.dual_stack,
        };
        let text = match &self.image {
            Some(image) => clusterfile.whole(image),
            None => clusterfile.sections(),
        };
        match &self.write {
            Some(path) => file::write(path, text.as_bytes(), 0o644),
            None => shell.result(&text),
        }
    }
}

impl Down {
    fn run(self, shell: &Shell, places: &Places) -> Result<()> {
        let mut names = if self.all || self.stale {
            Lab::names(places)?
        } else {
            vec![self.which.name]
        };
        if self.stale {
            let mut stale = Vec::new();
            for name in names {
                let status = Lab::status(places, &name)?;
                if status.is_some_and(|status| status.condition == Condition::Stale) {
                    stale.push(name);
                }
            }
            names = stale;
        }
        for name in &names {
            match shell.blocking(|context| Lab::down(context, places, name)) {
                Ok(true) => {}
                Ok(false) => shell.context().note(format!("there is no lab `{name}`")),
                // Somebody else removes it just now.
                Err(error) if self.stale && error.kind() == Kind::Locked => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Timed {
    fn run(
        self,
        shell: &Shell,
        places: &Places,
        action: impl Fn(&mut Lab, &crate::event::Context, &[String], Duration) -> Result<()>,
    ) -> Result<()> {
        let timeout = Duration::from_secs(self.timeout);
        shell.blocking(|context| {
            let mut lab = Lab::open_locked(places, &self.hosts.which.name)?;
            action(&mut lab, context, &self.hosts.hosts, timeout)
        })
    }
}

impl List {
    fn run(self, shell: &Shell, places: &Places) -> Result<()> {
        let mut labs = Vec::new();
        for name in Lab::names(places)? {
            labs.extend(Lab::status(places, &name)?);
        }
        match self.format {
            Format::Json => shell.json(&labs),
            Format::Table if labs.is_empty() => {
                shell
                    .context()
                    .note("there are no labs; `chasi lab up` makes one");
                Ok(())
            }
            Format::Table => shell.result(&table(&labs).to_string()),
        }
    }
}

fn table(labs: &[LabStatus]) -> Table {
    let mut table = Table::new(["LAB", "CONDITION", "HOST", "ADDRESS", "POWER", "NETWORK"]);
    for lab in labs {
        let condition = match lab.condition {
            Condition::Up => "up",
            Condition::Incomplete => "incomplete",
            Condition::Stale => "stale",
        };
        if lab.hosts.is_empty() {
            table.row([lab.name.as_str(), condition]);
        }
        for host in &lab.hosts {
            let address = host.addresses.first().map(ToString::to_string);
            let power = match host.power {
                Power::On => "on",
                Power::Off => "off",
            };
            let links: Vec<_> = host.links.iter().map(ToString::to_string).collect();
            table.row([
                lab.name.as_str(),
                condition,
                &host.name,
                &address.unwrap_or_default(),
                power,
                &links.join(" | "),
            ]);
        }
    }
    table
}

/// What to do to each link that is meant.
type LinkChange = Box<dyn Fn(&mut Link)>;

impl Net {
    fn run(self, places: &Places) -> Result<()> {
        let change = self.change()?;
        let nic = self.nic.map(|nic| nic - 1);
        Lab::open_locked(places, &self.which.name)?.set_link(&self.host, nic, change)
    }

    fn change(&self) -> Result<LinkChange> {
        let value = match (self.what, self.value.as_deref()) {
            (Change::Cut | Change::Restore, Some(value)) => {
                return Err(Error::new(
                    Kind::Usage,
                    format!("`{value}` has no meaning here"),
                ));
            }
            (Change::Limit | Change::Lose | Change::Mtu, None) => {
                return Err(Error::new(Kind::Usage, "a value is missing")
                    .hint("For instance `limit 10mbit`, `lose 20`, `mtu 1280`."));
            }
            (_, value) => value.unwrap_or_default(),
        };
        Ok(match self.what {
            Change::Cut => Box::new(|link| link.cut = true),
            Change::Restore => Box::new(|link| *link = Link::default()),
            Change::Limit => {
                let rate: Rate = value.parse()?;
                Box::new(move |link| link.rate = Some(rate))
            }
            Change::Lose => {
                let loss: Loss = value.parse()?;
                Box::new(move |link| link.loss = Some(loss))
            }
            Change::Mtu => {
                let mtu: Mtu = value.parse()?;
                Box::new(move |link| link.mtu = Some(mtu))
            }
        })
    }
}

/// Replaces this process by a program, so that streams, signals and the exit code
/// are the program's own.
fn become_program(mut command: std::process::Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    Err(Error::new(Kind::System, format!("cannot run `{program}`")).because(command.exec()))
}

/// Where labs keep things.
fn places() -> Result<Places> {
    Ok(Places {
        state: config::state()?.join("lab"),
        cache: config::cache()?.join("lab"),
        run: "/run/chasi/lab".into(),
    })
}
