//! What a network takes of a context: what it does not take is an error, never ignored.

use stein::{Condition, Context, Error, Result, ensure};

use crate::ops::Dual;

/// What a network takes of a [`Context`] besides one noise number per row; nothing by default.
#[derive(Debug, Clone, Copy, Default)]
pub struct Takes {
    /// The classes it knows.
    pub classes: usize,
    /// The width of vectors, 0 for none.
    pub vector: usize,
    /// The width of tokens, 0 for none.
    pub tokens: usize,
    /// Whether it leaves out tokens that a mask says are none.
    pub mask: bool,
    /// Whether it takes images beside its own.
    pub image: bool,
    /// Whether it takes a second noise level.
    pub second: bool,
}

impl Takes {
    /// Fails unless a context is one of `rows` rows and has nothing the network does not take. Of what it takes only a second noise
    /// level has to be there.
    ///
    /// # Errors
    /// A sentence on the first part that does not fit.
    pub fn check(&self, context: &Context, rows: usize) -> Result<()> {
        let Context { noise, second, given, dropout } = context;
        let per_row = |numbers: usize, what: &str| {
            ensure!(numbers == rows, "a batch of {rows} rows came with {numbers} {what}: give one per row");
            Ok(())
        };
        per_row(noise.dims()[0], "noise numbers")?;
        match second {
            Some(second) => {
                ensure!(self.second, "this network takes one noise level: leave the second out");
                per_row(second.dims()[0], "second noise numbers")?;
            }
            None => ensure!(!self.second, "this network takes a second noise level: none was given"),
        }
        if let Some(keys) = dropout {
            per_row(keys.len(), "keys for dropout")?;
        }
        self.condition(given, rows)
    }

    /// The same of a condition alone.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn condition(&self, given: &Condition, rows: usize) -> Result<()> {
        given.check(rows)?;
        given.class_rows(rows, self.classes)?;
        ensure!(
            given.text.is_none(),
            "this network reads no texts: leave the condition's out, or give it a transformer that does (family.text)"
        );
        if let Some(vector) = &given.vector {
            ensure!(self.vector > 0, "this network takes no vectors: leave the condition's out");
            let width = vector.dims()[1];
            ensure!(
                width == self.vector,
                "the condition has vectors of {width} numbers: this network takes {}",
                self.vector
            );
        }
        if let Some(tokens) = &given.tokens {
            ensure!(self.tokens > 0, "this network attends to no tokens: leave the condition's out");
            let [_, length, width] = tokens.values.dims();
            ensure!(
                length > 0 && width == self.tokens,
                "the condition has {length} tokens of width {width}: this network attends to one or more of width {}",
                self.tokens
            );
            ensure!(
                self.mask || tokens.mask.is_none(),
                "this network attends to all tokens of a row: leave the mask out and give sequences of one length"
            );
        }
        ensure!(
            self.image || given.image.is_none(),
            "this network takes no images beside its own: leave the condition's out"
        );
        Ok(())
    }

    /// [Checks](Self::check) the context of a batch of images `[N, H, W, C]` for a network that was built for `channels`, and puts
    /// the condition's images beside them where there are less: `[N, H, W, channels]`.
    ///
    /// # Errors
    /// As [`check`](Self::check), and when channels or sizes do not fit.
    pub fn input(&self, x: Dual<4>, context: &Context, channels: usize) -> Result<Dual<4>> {
        let [rows, height, width, depth] = x.dims();
        ensure!(depth <= channels, "the images have {depth} channels: this network was built for {channels}");
        Self { image: depth < channels, ..*self }.check(context, rows)?;
        let beside = channels - depth;
        if beside == 0 {
            return Ok(x);
        }
        let Some(image) = &context.given.image else {
            return Err(Error::new(format!(
                "the images have {depth} channels, and this network was built for {channels}: the condition has to have an \
                 image of {beside} channels per row"
            )));
        };
        let [_, high, wide, more] = image.dims();
        ensure!(
            [high, wide, more] == [height, width, beside],
            "the condition has images of {high} x {wide} x {more}: this network takes {height} x {width} x {beside} beside \
             its own"
        );
        let image = image.clone().cast(x.value.dtype());
        Ok(Dual::cat(vec![x, image.into()], 3))
    }
}
