//! Reading that ends when the user interrupts, also in the middle of a large file.

use std::io::{self, Read};

use crate::event;

/// A reader that fails once its context is cancelled. Whoever sees an error of it
/// asks the context first.
pub struct Stoppable<'a, R> {
    /// What is read.
    pub inner: R,
    /// Tells whether to stop.
    pub events: &'a event::Context,
}

impl<R: Read> Read for Stoppable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.events.check_cancelled() {
            Ok(()) => self.inner.read(buffer),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}
