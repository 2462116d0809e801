//! The JSON Schema of chasi's kind `Cluster`, made from the types that read it.

use schemars::generate::SchemaSettings;

use super::{Clusterfile, shape};

impl Clusterfile {
    /// The schema, in draft 2020-12.
    pub fn schema() -> serde_json::Value {
        let mut schema = SchemaSettings::draft2020_12()
            .into_generator()
            .into_root_schema_for::<shape::Document>();
        schema.insert("title".into(), "Clusterfile".into());
        schema.to_value()
    }
}
