//! From what was asked for to a cluster that is so.
//!
//! [`run`] asks every host what it is ([`survey`]), checks what must hold before
//! anything is touched ([`check`]), makes a plan ([`plan`]), which is a value
//! that can be printed and compared, and carries it out ([`apply`]). Running
//! again is how a failed run goes on: the plan is made anew from what is, and
//! what is right is not touched.

pub mod access;
pub mod apply;
pub mod backup;
pub mod certs;
pub mod check;
pub mod connect;
pub mod delete;
pub mod desired;
mod drain;
mod evidence;
pub mod history;
pub mod hooks;
pub mod image;
mod leave;
mod live;
pub mod nodes;
pub mod plan;
pub mod removal;
pub mod rollback;
pub mod run;
pub mod status;
pub mod survey;
pub mod unlisted;
mod verify;
