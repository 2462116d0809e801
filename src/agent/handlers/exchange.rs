//! Passing blobs on to other hosts.

use super::blocking;
use crate::agent::Scope;
use crate::agent::calls::exchange::{FetchPiece, FinishBlobs, OpenExchange, PutPiece};
use crate::agent::exchange::Exchange;
use crate::error::Result;
use crate::oci::Store;

pub(super) async fn open(scope: Scope, request: OpenExchange) -> Result<u16> {
    let path = scope.root().join("store");
    let store = blocking(move || Store::create(&path)?.hold()).await?;
    let OpenExchange {
        address,
        credentials,
        blobs,
    } = request;
    let root = scope.root().to_owned();
    let end = scope.session_end().child_token();
    let (exchange, port) = Exchange::open(root, store, &blobs, address, &credentials, end).await?;
    scope.begin_exchange(exchange);
    Ok(port)
}

pub(super) async fn put_piece(scope: Scope, request: PutPiece) -> Result<()> {
    let exchange = scope.exchange()?;
    exchange.put(&request.piece, scope.input).await
}

pub(super) async fn fetch_piece(scope: Scope, request: FetchPiece) -> Result<()> {
    let exchange = scope.exchange()?;
    exchange.fetch(&request.piece, &request.from).await
}

pub(super) async fn finish_blobs(scope: Scope, _: FinishBlobs) -> Result<()> {
    let exchange = scope.exchange()?;
    blocking(move || exchange.finish()).await
}
