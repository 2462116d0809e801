//! What the user wrote: the Kubefile and the Clusterfile, parsed with positions,
//! with defaults, validated. Nothing outside the text is looked at.

pub mod kubefile;
