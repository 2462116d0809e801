//! What happens on a host: what it is, what it was, and how it becomes another.
//!
//! Runs as root on the host itself, in `chasi agent` and `chasi boot`. Everything
//! is given a [`Root`], so all of it can happen in any directory.
//!
//! ```text
//! recipe ── stage ──> generation ── switch ──> the host's files
//!                     (objects)      (journal)
//! ```
//!
//! Invariants of the room:
//! - Staging touches nothing that is live. A switch is the only thing that
//!   changes managed files, and it is recorded in the journal before it begins.
//! - The symbolic links `node` and `control-plane` decide: whatever was
//!   interrupted, [`switch::recover`] makes whole what they point to.
//! - What a user changed is kept and reported; what stood at a path before chasi
//!   came is put back when chasi leaves it.
//! - Every effect on the file system first passes [`Root`]'s gate, so that tests
//!   can end the process at each of them.

mod before;
pub mod boot;
pub mod evidence;
pub mod facts;
pub mod generation;
pub mod hook;
pub mod journal;
pub mod leave;
pub mod object;
mod part;
pub mod probe;
pub mod recipe;
mod root;
pub mod setting;
pub mod switch;
pub mod template;
pub mod unit;
mod xattr;

pub use facts::Facts;
pub use part::Part;
pub use recipe::Recipe;
pub use root::{Gate, Root};
