//! Which function answers which request.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::Value;

use super::Scope;
use crate::agent::{Call, Effect};
use crate::error::{Error, Kind, Result, ResultExt};

/// The requests that an agent understands, and their handlers.
#[derive(Default)]
pub struct Router {
    routes: HashMap<&'static str, Route>,
}

pub(super) struct Route {
    pub effect: Effect,
    handler: Box<dyn Fn(Scope, Value) -> BoxFuture<'static, Result<Value>> + Send + Sync>,
}

impl Router {
    /// Knows no request.
    pub fn new() -> Router {
        Router::default()
    }

    /// Answers requests of type `C` with `handler`, an
    /// `async fn(Scope, C) -> Result<C::Reply>`.
    pub fn on<C, F, R>(mut self, handler: F) -> Router
    where
        C: Call,
        F: Fn(Scope, C) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Result<C::Reply>> + Send + 'static,
    {
        let handler = move |scope: Scope, body: Value| {
            let handler = handler.clone();
            async move {
                let request = serde_json::from_value::<C>(body).or_err(Kind::Failed, || {
                    format!("the request `{}` cannot be understood", C::NAME)
                })?;
                let reply = handler(scope, request).await?;
                serde_json::to_value(reply).or_err(Kind::Failed, || {
                    format!("the reply to `{}` cannot be written", C::NAME)
                })
            }
            .boxed()
        };
        self.routes.insert(
            C::NAME,
            Route {
                effect: C::EFFECT,
                handler: Box::new(handler),
            },
        );
        self
    }

    pub(super) fn find(&self, name: &str) -> Option<&Route> {
        self.routes.get(name)
    }
}

impl Route {
    /// Runs the handler. A panic is an error of this request alone.
    pub async fn run(&self, scope: Scope, body: Value) -> Result<Value> {
        let work = AssertUnwindSafe((self.handler)(scope, body));
        work.catch_unwind().await.unwrap_or_else(|panic| {
            let said = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            Err(
                Error::new(Kind::Failed, "the agent has an error of its own (a panic)")
                    .because(said.to_owned()),
            )
        })
    }
}
