//! The tokens of a text, by the `tokenizers` library: CLIP's (byte pair encoding: Sennrich et al., arXiv:1508.07909; Radford et al.,
//! arXiv:2103.00020, section 2.4), or the words of captions.
//!
//! A folder `tokenizer` of a pipeline has `tokenizer.json`, which says everything, or `vocab.json` and `merges.txt`, around which the rules are
//! CLIP's: composed characters (NFC), spaces of any kind as one, lower case letter by letter; a text is cut into words, single digits and runs of
//! other signs, and each is merged from its bytes.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};
use stein::{Error, Kind, Result, ensure};
use tokenizers::{
    AddedToken,
    models::{TrainerWrapper, wordlevel::WordLevelTrainer},
};

use crate::{Wording, import::json as parsed};

/// The token before a text.
const START: &str = "<|startoftext|>";
/// The token after a text.
const END: &str = "<|endoftext|>";
/// What a text is cut into.
const PIECES: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// What stands for a word that is not known.
const UNKNOWN: &str = "<|unknown|>";
/// Most words that captions are cut into: the most frequent.
const WORDS: usize = 8192;

/// A tokenizer whose texts have a token before and one after them, and are filled to one length.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Saved", into = "Saved")]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    length: usize,
    end: u32,
    padding: u32,
}

/// A tokenizer as files have it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    /// `tokenizer.json` of the library.
    tokenizer: String,
    /// Tokens of a text, those at both ends included.
    length: usize,
    /// What fills it.
    padding: String,
}

impl TryFrom<Saved> for Tokenizer {
    type Error = Error;

    fn try_from(saved: Saved) -> Result<Self> {
        let json = serde_json::from_str(&saved.tokenizer)
            .map_err(|error| Error::of(Kind::File, format!("the tokenizer is no JSON: {error}")))?;
        Self::of(json, &saved.padding, saved.length)
    }
}

impl From<Tokenizer> for Saved {
    fn from(tokenizer: Tokenizer) -> Self {
        let padding = tokenizer.inner.id_to_token(tokenizer.padding).expect("a tokenizer knows what it fills with");
        let json = tokenizer.inner.to_string(false).expect("what was read as JSON can be written");
        Self { tokenizer: json, length: tokenizer.length, padding }
    }
}

impl PartialEq for Tokenizer {
    fn eq(&self, other: &Self) -> bool {
        Saved::from(self.clone()) == Saved::from(other.clone())
    }
}

impl Tokenizer {
    /// The tokenizer of a folder, for texts of at most so many tokens, those at both ends included.
    ///
    /// # Errors
    /// When a file is missing or damaged, the tokens at both ends are not among the vocabulary, or there is no place for a text between them.
    pub fn open(folder: &Path, length: usize) -> Result<Self> {
        let config = folder.join("tokenizer_config.json");
        let config = if config.exists() { parsed(&config)? } else { Json::Null };
        let padding = content(&config["pad_token"]).unwrap_or(END).to_owned();
        let whole = folder.join("tokenizer.json");
        let json = if whole.exists() { parsed(&whole)? } else { clip(folder, &padding)? };
        Self::of(json, &padding, length).map_err(|error| error.at(folder.display()))
    }

    /// The words and signs of captions in lower case, the 8192 most frequent. Texts are as long as the longest of the captions.
    ///
    /// ```
    /// let tokenizer = stein_nn::Tokenizer::of_words(&["a red square", "two blue circles"])?;
    /// assert_eq!((tokenizer.length(), tokenizer.vocabulary()), (5, 9));
    /// // Before it and after it stand tokens of their own, and of a word that is not known as well.
    /// assert_eq!(tokenizer.tokens("Blue square, red circles")?.len(), 5);
    /// # Ok::<(), stein::Error>(())
    /// ```
    ///
    /// # Errors
    /// Captions without a word.
    pub fn of_words(captions: &[impl AsRef<str>]) -> Result<Self> {
        let fault = |error: &dyn std::fmt::Display| Error::new(format!("the captions make no tokenizer: {error}"));
        let special = [START, END, UNKNOWN].map(|token| AddedToken::from(token, true)).to_vec();
        let vocabulary = WORDS + special.len();
        let mut trainer = WordLevelTrainer::builder();
        let trainer = trainer.vocab_size(vocabulary).show_progress(false).special_tokens(special).build();
        let trainer = trainer.map_err(|error| fault(&error))?;
        let mut inner: tokenizers::Tokenizer = serde_json::from_value(words()).map_err(|error| fault(&error))?;
        let texts = captions.iter().map(|caption| caption.as_ref().to_owned()).collect::<Vec<_>>();
        inner.train(&mut TrainerWrapper::from(trainer), texts.into_iter()).map_err(|error| fault(&error))?;
        let json = serde_json::to_value(&inner).map_err(|error| fault(&error))?;
        let mut tokenizer = Self::of(json, END, usize::MAX)?;
        let lengths = captions.iter().map(|caption| Ok(tokenizer.tokens(caption.as_ref())?.len()));
        tokenizer.length = lengths.collect::<Result<Vec<_>>>()?.into_iter().max().unwrap_or(0);
        ensure!(tokenizer.length > 2, "the captions have no word: give samples that have a text");
        Ok(tokenizer)
    }

    /// The tokenizer that JSON of the library describes.
    fn of(json: Json, padding: &str, length: usize) -> Result<Self> {
        ensure!(length > 2, "texts of {length} tokens have no place between the first and the last: give more");
        let fault =
            |error: &dyn std::fmt::Display| Error::of(Kind::File, format!("the tokenizer cannot be read: {error}"));
        let mut inner: tokenizers::Tokenizer = serde_json::from_value(json).map_err(|error| fault(&error))?;
        // Texts are cut and filled below, so that the token at the end stays.
        inner.with_padding(None).with_truncation(None).map_err(|error| fault(&error))?;
        let number = |token: &str| {
            let lacks = || Error::of(Kind::File, format!("the vocabulary of the tokenizer lacks {token}"));
            inner.token_to_id(token).ok_or_else(lacks)
        };
        let (end, padding) = (number(END)?, number(padding)?);
        Ok(Self { inner, length, end, padding })
    }

    /// Tokens of a text, those at both ends included.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The largest number of a token, and one: what an embedding has to know.
    pub fn vocabulary(&self) -> usize {
        self.inner.get_vocab(true).into_values().max().map_or(0, |most| most as usize + 1)
    }

    /// The numbers of a text's tokens with those at both ends, cut to the longest and not filled.
    ///
    /// # Errors
    /// What the library reports.
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        let encoded = self
            .inner
            .encode(text, true)
            .map_err(|error| Error::new(format!("the text {:?} has no tokens: {error}", stein::names::short(text))))?;
        let mut tokens = encoded.get_ids().to_vec();
        if tokens.len() > self.length {
            tokens.truncate(self.length - 1);
            tokens.push(self.end);
        }
        Ok(tokens)
    }

    /// The same, filled to the longest.
    ///
    /// # Errors
    /// As [`tokens`](Self::tokens).
    pub fn padded(&self, text: &str) -> Result<Vec<u32>> {
        let mut tokens = self.tokens(text)?;
        tokens.resize(self.length, self.padding);
        Ok(tokens)
    }

    /// What a network has to know of its texts.
    ///
    /// # Errors
    /// As [`tokens`](Self::tokens).
    pub fn wording(&self) -> Result<Wording> {
        Ok(Wording { vocabulary: self.vocabulary(), length: self.length, empty: self.padded("")? })
    }
}

/// The text of a token, which stands alone or among what else there is to say of it.
fn content(token: &Json) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// What `tokenizer.json` would say of words before they are known.
fn words() -> Json {
    json!({
        "version": "1.0",
        "normalizer": { "type": "Sequence", "normalizers": [{ "type": "NFC" }, { "type": "Lowercase" }] },
        "pre_tokenizer": { "type": "Whitespace" },
        "post_processor": {
            "type": "RobertaProcessing", "sep": [END, 1], "cls": [START, 0], "trim_offsets": false, "add_prefix_space": false,
        },
        "model": { "type": "WordLevel", "vocab": {}, "unk_token": UNKNOWN },
    })
}

/// What `tokenizer.json` would say, of a vocabulary and merges.
fn clip(folder: &Path, padding: &str) -> Result<Json> {
    let path = folder.join("vocab.json");
    let vocabulary: Map<String, Json> = serde_json::from_value(parsed(&path)?).map_err(|_| {
        Error::of(Kind::File, format!("{} is no vocabulary: expected numbers by token", path.display()))
    })?;
    let path = folder.join("merges.txt");
    let merges = std::fs::read_to_string(&path)
        .map_err(|error| Error::of(Kind::File, format!("cannot read {}: {error}", path.display())))?;
    let merges: Vec<&str> = merges.lines().filter(|line| !line.is_empty() && !line.starts_with("#version")).collect();
    let number = |token: &str| vocabulary.get(token).cloned().unwrap_or(Json::Null);
    // In capitals they are text like any other.
    let named = |token: &str| {
        json!({
            "id": number(token), "content": token, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    };
    let mut added = vec![named(START), named(END)];
    if padding != END {
        // What fills a text becomes a token of its own wherever it stands: "!" of Stable Diffusion 2.
        added.insert(0, named(padding));
    }
    Ok(json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "NFC" },
            { "type": "Replace", "pattern": { "Regex": r"\s+" }, "content": " " },
            { "type": "Lowercase" },
        ]},
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": PIECES }, "behavior": "Removed", "invert": true },
            { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        ]},
        "post_processor": {
            "type": "RobertaProcessing", "sep": [END, number(END)], "cls": [START, number(START)],
            "trim_offsets": false, "add_prefix_space": false,
        },
        "model": {
            "type": "BPE", "unk_token": END, "continuing_subword_prefix": "", "end_of_word_suffix": "</w>",
            "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": merges,
        },
    }))
}
