//! What a batch is conditioned on, row by row: classes, texts, vectors, tokens, images.

use std::sync::Arc;

use burn::tensor::{Bool, Int, Tensor, TensorData};

use crate::{Result, ensure};

/// The condition of every row of a batch; the default is none at all.
///
/// A row without a class or a text has `None` for it: that is the one way to say "no class" and "no text", for training that hides
/// them and for classifier-free guidance. What a network makes of it (an embedding of its own, zeros, one more index, the empty text) is
/// the network's affair.
#[derive(Debug, Clone, Default)]
pub struct Condition {
    /// A class per row; absent where the model is not told any.
    pub class: Option<Vec<Option<u32>>>,
    /// A text per row, by the numbers of its tokens; absent where the model reads none.
    pub text: Option<Vec<Option<Arc<[u32]>>>>,
    /// A vector per row, `[rows, width]`: continuous labels, several labels, how a sample was augmented.
    pub vector: Option<Tensor<2>>,
    /// A sequence per row, such as an encoded text.
    pub tokens: Option<Tokens>,
    /// An image per row, `[rows, height, width, channels]`, beside the noisy one: low resolution, layout, known pixels.
    pub image: Option<Tensor<4>>,
}

/// Sequences to attend to.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// `[rows, length, width]`.
    pub values: Tensor<3>,
    /// `[rows, length]`, false where a sequence has ended; none where all are of full length.
    pub mask: Option<Tensor<2, Bool>>,
}

impl Condition {
    /// No condition at all.
    pub fn none() -> Self {
        Self::default()
    }

    /// One class per row.
    pub fn classes(class: impl IntoIterator<Item = u32>) -> Self {
        Self { class: Some(class.into_iter().map(Some).collect()), ..Self::default() }
    }

    /// The same with no class and no text in any row: what a model knows without its label. A condition that has neither stays as it is.
    #[must_use]
    pub fn without_label(&self) -> Self {
        Self {
            class: self.class.as_ref().map(|class| vec![None; class.len()]),
            text: self.text.as_ref().map(|text| vec![None; text.len()]),
            ..self.clone()
        }
    }

    /// Whether a row has a class or a text.
    pub fn has_label(&self) -> bool {
        self.class.iter().flatten().any(Option::is_some) || self.text.iter().flatten().any(Option::is_some)
    }

    /// The same with one class in all of `rows` rows.
    #[must_use]
    pub fn with_class(&self, rows: usize, class: u32) -> Self {
        Self { class: Some(vec![Some(class); rows]), ..self.clone() }
    }

    /// The condition of some rows, in the order given.
    ///
    /// # Panics
    /// If an index is not a row of this condition, which is the caller's broken invariant.
    #[must_use]
    pub fn select(&self, rows: &[usize]) -> Self {
        let index = |device: &burn::tensor::Device| {
            let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
            let count = rows.len();
            Tensor::<1, Int>::from_data(TensorData::new(rows, [count]), device)
        };
        Self {
            class: self.class.as_ref().map(|class| rows.iter().map(|&row| class[row]).collect()),
            text: self.text.as_ref().map(|text| rows.iter().map(|&row| text[row].clone()).collect()),
            vector: self.vector.clone().map(|vector| {
                let index = index(&vector.device());
                vector.select(0, index)
            }),
            tokens: self.tokens.clone().map(|tokens| {
                let index = index(&tokens.values.device());
                Tokens {
                    values: tokens.values.select(0, index.clone()),
                    mask: tokens.mask.map(|mask| mask.select(0, index)),
                }
            }),
            image: self.image.clone().map(|image| {
                let index = index(&image.device());
                image.select(0, index)
            }),
        }
    }

    /// The conditions of two batches one after the other, for evaluating both at once.
    ///
    /// # Errors
    /// When one has a part the other lacks.
    pub fn then(&self, other: &Self) -> Result<Self> {
        fn both<T: Clone>(a: &Option<T>, b: &Option<T>, join: impl FnOnce(T, T) -> T) -> Result<Option<T>> {
            match (a.clone(), b.clone()) {
                (Some(a), Some(b)) => Ok(Some(join(a, b))),
                (None, None) => Ok(None),
                _ => Err(crate::Error::new(
                    "two conditions of one batch differ in their parts: give classes, texts, vectors, tokens and images to both",
                )),
            }
        }
        Ok(Self {
            class: both(&self.class, &other.class, |a, b| [a, b].concat())?,
            text: both(&self.text, &other.text, |a, b| [a, b].concat())?,
            vector: both(&self.vector, &other.vector, |a, b| Tensor::cat(vec![a, b], 0))?,
            tokens: both(&self.tokens, &other.tokens, |a, b| {
                // Without a mask every token counts.
                let whole = |tokens: &Tokens| {
                    let [rows, length, _] = tokens.values.dims();
                    Tensor::<2, Int>::ones([rows, length], &tokens.values.device()).bool()
                };
                let mask = (a.mask.is_some() || b.mask.is_some()).then(|| {
                    let [first, second] = [&a, &b].map(|tokens| tokens.mask.clone().unwrap_or_else(|| whole(tokens)));
                    Tensor::cat(vec![first, second], 0)
                });
                Tokens { values: Tensor::cat(vec![a.values, b.values], 0), mask }
            })?,
            image: both(&self.image, &other.image, |a, b| Tensor::cat(vec![a, b], 0))?,
        })
    }

    /// Fails unless every part has as many rows as the batch.
    pub fn check(&self, rows: usize) -> Result<()> {
        let counts = [
            ("classes", self.class.as_ref().map(Vec::len)),
            ("texts", self.text.as_ref().map(Vec::len)),
            ("vectors", self.vector.as_ref().map(|vector| vector.dims()[0])),
            ("sequences", self.tokens.as_ref().map(|tokens| tokens.values.dims()[0])),
            ("images", self.image.as_ref().map(|image| image.dims()[0])),
        ];
        for (what, count) in counts {
            if let Some(count) = count {
                ensure!(count == rows, "the condition has {count} {what} for a batch of {rows} rows: give one per row");
            }
        }
        Ok(())
    }

    /// The class of every row, of a model that knows `known` classes (0 for none): `None` where a row has none, or the batch has
    /// no classes at all.
    ///
    /// # Errors
    /// A class the model does not know.
    pub fn class_rows(&self, rows: usize, known: usize) -> Result<Vec<Option<u32>>> {
        let Some(class) = &self.class else { return Ok(vec![None; rows]) };
        for &given in class.iter().flatten() {
            ensure!(known > 0, "class {given} was given to a model that knows no classes: leave the class out");
            ensure!(
                (given as usize) < known,
                "class {given} is out of range: this model knows classes 0 to {}",
                known - 1
            );
        }
        Ok(class.clone())
    }
}
