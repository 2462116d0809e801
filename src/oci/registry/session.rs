//! Requests to one repository of one registry: where it is, who we are, and
//! trying again.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};

use super::challenge::{self, Challenge};
use super::{Client, Token};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::Context;
use crate::oci::auth::Credential;
use crate::oci::http::{self, Attempts, Failure};
use crate::oci::mirror::Location;
use crate::oci::{Blob, Reference};

/// What is to be done in the repository.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Access {
    Pull,
    Push,
}

impl Access {
    fn scope(self, repository: &str) -> String {
        match self {
            Access::Pull => format!("repository:{repository}:pull"),
            Access::Push => format!("repository:{repository}:pull,push"),
        }
    }
}

/// A repository on a registry.
#[derive(Clone)]
pub(super) struct Session<'a> {
    client: &'a Client,
    /// Such as `https://registry.example.com/v2/library/busybox`.
    base: String,
    location: Location,
    scope: String,
    /// What it is about, for errors and progress.
    pub(super) name: String,
}

impl<'a> Session<'a> {
    pub(super) async fn open(
        client: &'a Client,
        ctx: &Context,
        reference: &Reference,
        access: Access,
    ) -> Result<Self> {
        let location = client.inner.mirrors.location(reference);
        let scheme = client.scheme(ctx, &location).await?;
        // Docker Hub's registry answers under another name than its images have.
        let host = match location.host.as_str() {
            "docker.io" => "registry-1.docker.io",
            host => host,
        };
        Ok(Session {
            client,
            base: format!("{scheme}://{host}/v2/{}", location.repository),
            scope: access.scope(&location.repository),
            name: reference.familiar(),
            location,
        })
    }

    /// The URL of something in the repository, such as `blobs/sha256:…`.
    pub(super) fn url(&self, path: &str) -> Result<Url> {
        let text = format!("{}/{path}", self.base);
        text.parse()
            .or_err(Kind::Input, || format!("`{text}` is not a URL"))
    }

    /// Sends a request until there is an answer that is a success or one of
    /// `accepted`. `prepare` adds headers and body; it is called for each attempt.
    pub(super) async fn send(
        &self,
        ctx: &Context,
        method: Method,
        url: &Url,
        what: &str,
        accepted: &[StatusCode],
        prepare: impl Fn(RequestBuilder) -> Result<RequestBuilder>,
    ) -> Result<Response> {
        let mut attempts = Attempts::new();
        let mut is_authorized = false;
        loop {
            ctx.check_cancelled()?;
            let request = prepare(self.authorized(method.clone(), url)?)?;
            let failure = match http::unless_cancelled(ctx, request.send()).await? {
                Err(cause) => http::no_answer(url, cause),
                Ok(response)
                    if response.status().is_success() || accepted.contains(&response.status()) =>
                {
                    return Ok(response);
                }
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED && !is_authorized => {
                    is_authorized = true;
                    self.authorize(ctx, &response).await?;
                    continue;
                }
                Ok(response) => http::refusal(what, response).await,
            };
            attempts.pause(ctx, failure).await?;
        }
    }

    pub(super) fn client(&self) -> &'a Client {
        self.client
    }

    /// A request with the token that is there.
    pub(super) fn authorized(&self, method: Method, url: &Url) -> Result<RequestBuilder> {
        let request = self
            .client
            .inner
            .transport
            .client(url)?
            .request(method, url.clone());
        Ok(match self.token(url)? {
            Some(Token(value)) => request.header(AUTHORIZATION, value),
            None => request,
        })
    }

    fn key(&self) -> (String, String) {
        (self.location.host.clone(), self.scope.clone())
    }

    /// The token for this repository. It goes to the registry's own host only: an
    /// upload's address may lead elsewhere.
    fn token(&self, url: &Url) -> Result<Option<Token>> {
        if http::authority(url) != http::authority(&self.url("")?) {
            return Ok(None);
        }
        let tokens = self.client.inner.tokens.lock();
        let tokens = tokens.map_err(|_| Error::new(Kind::Failed, "cannot look for a token"))?;
        Ok(tokens.get(&self.key()).cloned())
    }

    /// Answers the registry's challenge and keeps what it takes.
    async fn authorize(&self, ctx: &Context, response: &Response) -> Result<()> {
        let host = &self.location.host;
        let challenges = response.headers().get_all(WWW_AUTHENTICATE);
        let challenge = challenges
            .iter()
            .filter_map(|value| value.to_str().ok())
            .find_map(challenge::parse)
            .ok_or_else(|| {
                Error::new(
                    Kind::Unreachable,
                    format!("`{host}` asks for credentials in a way that is not understood"),
                )
            })?;
        let credential = self.credential().await?;
        let value = match challenge {
            Challenge::Basic => match credential {
                Some(Credential::Password { user, password }) => basic(&user, &password)?,
                _ => {
                    return Err(Error::new(Kind::Unreachable, format!("`{host}` asks for a user name and a password"))
                        .hint(format!("log in by `docker login {host}` or `skopeo login {host}`; chasi reads their files")));
                }
            },
            Challenge::Bearer {
                realm,
                service,
                scope,
            } => {
                let scope = scope.unwrap_or_else(|| self.scope.clone());
                self.fetch_token(
                    ctx,
                    response.url(),
                    &realm,
                    service.as_deref(),
                    &scope,
                    credential,
                )
                .await?
            }
        };
        let tokens = self.client.inner.tokens.lock();
        let mut tokens = tokens.map_err(|_| Error::new(Kind::Failed, "cannot keep a token"))?;
        tokens.insert(self.key(), Token(value));
        Ok(())
    }

    async fn credential(&self) -> Result<Option<Credential>> {
        let credentials = self.client.inner.credentials.clone();
        let Location {
            host, repository, ..
        } = self.location.clone();
        tokio::task::spawn_blocking(move || credentials.find(&host, &repository))
            .await
            .or_err(Kind::Failed, || "cannot look for credentials")?
    }

    async fn fetch_token(
        &self,
        ctx: &Context,
        asked_by: &Url,
        realm: &str,
        service: Option<&str>,
        scope: &str,
        credential: Option<Credential>,
    ) -> Result<HeaderValue> {
        let host = &self.location.host;
        let mut url: Url = realm.parse().or_err(Kind::Unreachable, || {
            format!("`{host}` names a token server that is not a URL")
        })?;
        let is_tls = url.scheme() == "https";
        if !is_tls && (url.scheme() != "http" || asked_by.scheme() == "https") {
            return Err(Error::new(
                Kind::Unreachable,
                format!(
                    "`{host}` wants credentials to be sent without TLS to `{}`",
                    http::authority(&url)
                ),
            ));
        }
        let mut parameters = vec![("scope", scope)];
        parameters.extend(service.map(|service| ("service", service)));
        let client = self.client.inner.transport.client(&url)?;
        if !matches!(credential, Some(Credential::IdentityToken(_))) {
            url.query_pairs_mut().extend_pairs(&parameters);
        }
        let mut attempts = Attempts::new();
        loop {
            let request = match &credential {
                Some(Credential::IdentityToken(token)) => {
                    let grant = [
                        ("grant_type", "refresh_token"),
                        ("refresh_token", token),
                        ("client_id", "chasi"),
                    ];
                    let form: Vec<_> = parameters.iter().copied().chain(grant).collect();
                    client
                        .post(url.clone())
                        .header("Content-Type", "application/x-www-form-urlencoded")
                        .body(encode(&form))
                }
                Some(Credential::Password { user, password }) => client
                    .get(url.clone())
                    .header(AUTHORIZATION, basic(user, password)?),
                None => client.get(url.clone()),
            };
            let failure = match request.send().await {
                Err(cause) => http::no_answer(&url, cause),
                Ok(response) if response.status().is_success() => {
                    return bearer(host, response).await;
                }
                Ok(response) => {
                    http::refusal(&format!("get a token for `{}`", self.name), response).await
                }
            };
            attempts.pause(ctx, failure).await?;
        }
    }
}

fn basic(user: &str, password: &str) -> Result<HeaderValue> {
    secret(format!(
        "Basic {}",
        STANDARD.encode(format!("{user}:{password}"))
    ))
}

fn secret(value: String) -> Result<HeaderValue> {
    let mut value = HeaderValue::try_from(value).map_err(|_| {
        Error::new(
            Kind::Input,
            "a credential has characters that HTTP does not allow",
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn encode(form: &[(&str, &str)]) -> String {
    // A URL's query has the same form as the body of a form.
    let Ok(mut url) = Url::parse("http://form.invalid/") else {
        return String::new();
    };
    url.query_pairs_mut().extend_pairs(form);
    url.query().unwrap_or_default().to_owned()
}

async fn bearer(host: &str, response: Response) -> Result<HeaderValue> {
    #[derive(serde::Deserialize)]
    struct Answer {
        #[serde(default)]
        token: String,
        #[serde(default)]
        access_token: String,
    }
    let not_understood =
        || format!("the token server of `{host}` gives an answer that is not understood");
    let body = super::manifest::read_bounded(response, 1 << 20)
        .await
        .map_err(|_| Error::new(Kind::Unreachable, not_understood()))?;
    // The parser's message could quote the token.
    let answer: Answer = serde_json::from_slice(&body)
        .map_err(|_| Error::new(Kind::Unreachable, not_understood()))?;
    let token = if answer.token.is_empty() {
        answer.access_token
    } else {
        answer.token
    };
    if token.is_empty() {
        return Err(Error::new(Kind::Unreachable, not_understood()));
    }
    secret(format!("Bearer {token}"))
}

impl Client {
    /// The lock that lets one task at a time fetch a blob.
    pub(super) fn turn(&self, blob: &Blob) -> Result<Arc<tokio::sync::Mutex<()>>> {
        let fetching = self.inner.fetching.lock();
        let mut fetching = fetching.map_err(|_| Error::new(Kind::Failed, "cannot take turns"))?;
        // Turns that nobody waits for are forgotten.
        fetching.retain(|_, turn| Arc::strong_count(turn) > 1);
        Ok(fetching.entry(blob.digest).or_default().clone())
    }

    /// Plain HTTP when it was asked for; for a host that is configured as insecure,
    /// when it does not speak TLS; and, as docker does, for this machine, unless
    /// certificates are configured for it.
    async fn scheme(&self, ctx: &Context, location: &Location) -> Result<&'static str> {
        let transport = &self.inner.transport;
        let host = &location.host;
        if location.plain_http {
            return Ok("http");
        }
        if !transport.is_insecure(host) {
            let is_plain = http::is_loopback(host) && !transport.has_certificates(host);
            return Ok(if is_plain { "http" } else { "https" });
        }
        let mut schemes = self.inner.schemes.lock().await;
        if let Some(scheme) = schemes.get(host) {
            return Ok(scheme);
        }
        let url: Url = format!("https://{host}/v2/")
            .parse()
            .or_err(Kind::Input, || format!("`{host}` is not a host"))?;
        let request = transport.client(&url)?.get(url.clone());
        let answer = http::unless_cancelled(ctx, request.send()).await?;
        let scheme = match answer {
            Ok(_) => "https",
            Err(error) if error.is_connect() => "http",
            Err(cause) => {
                let mut attempts = Attempts::new();
                let failure = match http::no_answer(&url, cause) {
                    Failure::Passing { error, .. } => Failure::Final(error),
                    failure => failure,
                };
                attempts.pause(ctx, failure).await?;
                "https"
            }
        };
        schemes.insert(host.clone(), scheme);
        Ok(scheme)
    }
}
