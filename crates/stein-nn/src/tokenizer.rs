//! CLIP's tokens of a text (byte pair encoding: Sennrich et al., arXiv:1508.07909; Radford et al., arXiv:2103.00020, section 2.4), by the
//! `tokenizers` library.
//!
//! A folder `tokenizer` of a pipeline has `tokenizer.json`, which says everything, or `vocab.json` and `merges.txt`, around which the rules are
//! CLIP's: composed characters (NFC), spaces of any kind as one, lower case letter by letter; a text is cut into words, single digits and runs of
//! other signs, and each is merged from its bytes.

use std::path::Path;

use serde_json::{Map, Value as Json, json};
use stein::{Error, Kind, Result, ensure};

/// The token before a text.
const START: &str = "<|startoftext|>";
/// The token after a text.
const END: &str = "<|endoftext|>";
/// What a text is cut into.
const PIECES: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// A tokenizer of CLIP's kind.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    length: usize,
    end: u32,
    padding: u32,
}

impl Tokenizer {
    /// The tokenizer of a folder, for texts of at most so many tokens, those at both ends included.
    ///
    /// # Errors
    /// When a file is missing or damaged, the tokens at both ends are not among the vocabulary, or there is no place for a text between them.
    pub fn open(folder: &Path, length: usize) -> Result<Self> {
        ensure!(length > 2, "texts of {length} tokens have no place between the first and the last: give more");
        let config = folder.join("tokenizer_config.json");
        let config = if config.exists() { parsed(&config)? } else { Json::Null };
        let padding = content(&config["pad_token"]).unwrap_or(END).to_owned();
        let whole = folder.join("tokenizer.json");
        let json = if whole.exists() { parsed(&whole)? } else { clip(folder, &padding)? };
        let fault = |error: tokenizers::Error| {
            Error::of(Kind::File, format!("{}: the tokenizer cannot be read: {error}", folder.display()))
        };
        let mut inner = tokenizers::Tokenizer::from_bytes(json.to_string()).map_err(fault)?;
        // Texts are cut and filled below, so that the token at the end stays.
        inner.with_padding(None).with_truncation(None).map_err(fault)?;
        let number = |token: &str| {
            let lacks = || Error::of(Kind::File, format!("{}: the vocabulary lacks {token}", folder.display()));
            inner.token_to_id(token).ok_or_else(lacks)
        };
        let (end, padding) = (number(END)?, number(&padding)?);
        Ok(Self { inner, length, end, padding })
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
}

/// The text of a token, which stands alone or among what else there is to say of it.
fn content(token: &Json) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| Error::of(Kind::File, format!("cannot read {}: {error}", path.display())))
}

fn parsed(path: &Path) -> Result<Json> {
    serde_json::from_str(&read(path)?)
        .map_err(|error| Error::of(Kind::File, format!("{} is no JSON: {error}", path.display())))
}

/// What `tokenizer.json` would say, of a vocabulary and merges.
fn clip(folder: &Path, padding: &str) -> Result<Json> {
    let path = folder.join("vocab.json");
    let vocabulary: Map<String, Json> = serde_json::from_value(parsed(&path)?).map_err(|_| {
        Error::of(Kind::File, format!("{} is no vocabulary: expected numbers by token", path.display()))
    })?;
    let merges = read(&folder.join("merges.txt"))?;
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
