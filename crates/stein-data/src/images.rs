//! Pictures: a folder or a tar file of PNG, JPEG, WebP and TIFF, or an array of numpy.
//!
//! The pictures are taken in the order of their paths, turned as their Exif data say, transparency dropped. Where they lie
//! in sub-folders, the first folder below the path is the class. Values of 8 and 16 bits are given over the largest one, floating-point ones as
//! they are; all pictures of a set are of one kind. Every tenth picture is held out for the test split. A picture that is cut
//! short is refused, and so is one that takes more than 512 MiB decoded. What else lies in the folder is counted in
//! [`Data::notes`]. Pictures may have [captions](Captions).
//!
//! A set that fits into `memory` is decoded once, at the start. A larger one is a stream: only the names and, where
//! they are needed, the heads of the files are read at the start; each picture is decoded when it is asked for, and
//! what it became is kept in a file in `cache`, so that later epochs do not decode. A large `.npy` file is read where
//! it lies.

use crate::{
    Captions, Data, DataSet, Rows, Shape, Split, array,
    array::{Numbers, Stored},
    cache::Cache,
    data::first_error,
    listing::{ENDINGS, Listing},
    picture::{self, Head, LARGEST, Picture},
    samples::{Depth, Samples},
    source::{Part, classes_of, hundred, labels_of, one_tenth},
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::Digest;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use stein_base::{Error, Explain, Kind, Result, ensure, memory};

/// Pictures of a folder, a tar file, or an array.
///
/// ```
/// use stein_data::{DataSet, Images, Split};
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path();
/// # for name in ["a.png", "b.png"] { image::GrayImage::new(40, 30).save(folder.join(name)).unwrap(); }
/// let images = Images { path: folder.into(), height: Some(8), width: Some(8), ..Images::default() };
/// let data = images.load(Split::Train, None)?;
/// assert_eq!(data.shape.dims(), [8, 8, 1]);
/// # Ok::<(), stein_data::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct Images {
    /// The folder, a file that ends with `.tar`, one picture, or a `.npy` or `.npz` file with `[N, H, W]` or `[N, H, W, C]` values
    /// of 8 or 16 bits or floats.
    pub path: PathBuf,
    /// Pixels down; by default that of the first picture, which all must share. With this or `width` given, the center
    /// of each picture is cut to the aspect and resized.
    #[serde(default)]
    pub height: Option<usize>,
    /// Pixels across; see `height`.
    #[serde(default)]
    pub width: Option<usize>,
    /// Values in a pixel; by default 3 where any picture has color, else what all have, 1 for gray. Gray and color are
    /// turned into each other, other numbers of bands must be what the files have.
    #[serde(default)]
    pub channels: Option<usize>,
    /// Where the captions of the pictures of a folder or tar file stand, one for each; by default they have none.
    #[serde(default)]
    pub captions: Option<Captions>,
    /// The part, 0 to 1, held out for the test split, spread evenly; default 0.1.
    #[serde(default = "one_tenth")]
    pub test_fraction: f64,
    /// The array of an npz file; by default `x`, or the only one beside the labels.
    #[serde(default)]
    pub array: Option<String>,
    /// The array of an npz file that holds the classes, `[N]`; by default `y` or `labels` where there is one.
    #[serde(default)]
    pub label: Option<String>,
    /// The most classes that labels in an npz file may make; default 100. Sub-folders may be any number.
    #[serde(default = "hundred")]
    pub max_classes: usize,
    /// MiB of decoded pictures that are held in memory; a larger folder, tar or npy file is read as it is used. Default
    /// 512.
    #[serde(default = "half_a_gib")]
    pub memory: usize,
    /// The folder for what is decoded of a larger set; by default `stein` in the folder that the environment variable
    /// `STEIN_CACHE` names, or else in the system's folder for temporary files. It may be emptied at any time between
    /// runs.
    #[serde(default)]
    pub cache: Option<PathBuf>,
}

impl Default for Images {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            height: None,
            width: None,
            channels: None,
            captions: None,
            test_fraction: one_tenth(),
            array: None,
            label: None,
            max_classes: hundred(),
            memory: half_a_gib(),
            cache: None,
        }
    }
}

/// The default `memory`.
fn half_a_gib() -> usize {
    512
}

impl DataSet for Images {
    fn load(&self, split: Split, _: Option<&Path>) -> Result<Data> {
        let path = self.path.display();
        ensure!(!self.path.as_os_str().is_empty(), "images needs `path`: name a folder of pictures");
        ensure!(
            ![self.height, self.width, self.channels].contains(&Some(0)),
            "images {path} cannot have that size: give a height, width and channels above 0"
        );
        if array::is_array(&self.path) {
            ensure!(
                self.captions.is_none(),
                "images {path} is an array, which has no captions beside its pictures: leave out `captions`"
            );
            return self.load_array(split);
        }
        ensure!(
            self.array.is_none() && self.label.is_none(),
            "images {path} is no npz file: leave out `array` and `label`"
        );
        self.load_listing(Listing::of(&self.path)?, split)
    }

    fn shorthand(&self, rest: &str) -> Option<(&'static str, String)> {
        Some(("path", rest.into()))
    }
}

impl Images {
    fn load_listing(&self, mut listing: Listing, split: Split) -> Result<Data> {
        let path = self.path.display();
        let endings = ENDINGS.join(", ");
        ensure!(Kind::File, listing.len() > 0, "{path} holds no {endings} file: name a folder of pictures");
        let (captions, others) = match self.captions {
            Some(captions) => captions.read(&mut listing).map(|(captions, note)| (Some(captions), note))?,
            None => (None, None),
        };
        // The heads of all are read for either split, so that both agree on what a picture is.
        let heads = self.heads(&listing)?;
        let target = self.target(&listing, &heads)?;
        let (labels, class_names) = self.classes(&listing)?;
        let part = Part::of(split, listing.len(), self.test_fraction, labels.as_deref())?;
        let (labels, captions) = (part.of_own(labels), part.of_own(captions));
        let Target { height, width, channels, .. } = target;
        let shape = Shape::Image { height, width, channels };
        let name = self.name();
        let mut notes: Vec<String> = listing.note().into_iter().chain(others).chain([part.note]).collect();
        let data = if self.fits_memory(part.own.len(), &target) {
            let samples = target.gather(&part.own, |i| target.read(&listing, i))?;
            Data::held(&name, shape, samples, labels, class_names)?
        } else {
            let cache = self.open_cache(&listing, target);
            notes.extend(cache.as_ref().map(|it| format!("decoded pictures are kept in {}", it.path().display())));
            let rows = Pictures { listing, own: part.own, target, cache };
            Data::from_stream(&name, shape, Arc::new(rows), labels, class_names)?
        };
        let data = data.noted(notes);
        match captions {
            Some(captions) => data.captioned(captions),
            None => Ok(data),
        }
    }

    fn name(&self) -> String {
        self.path.file_stem().map_or("images".into(), |name| name.to_string_lossy().into_owned())
    }

    /// The head of each picture; `None` where the settings and the ending of the name say all.
    fn heads(&self, listing: &Listing) -> Result<Vec<Option<Head>>> {
        let sized = self.height.is_some() && self.width.is_some() && self.channels.is_some();
        let head = |i: usize| {
            let ending = listing.names[i].extension().unwrap_or_default().to_ascii_lowercase();
            // These have 8 bits always, and gray or color.
            if sized && matches!(self.channels, Some(1 | 3)) && ["jpg", "jpeg", "webp"].iter().any(|it| ending == *it) {
                return Ok(None);
            }
            let head = listing.open(i).map_err(|e| e.to_string()).and_then(picture::head);
            head.map(Some).map_err(|why| listing.unreadable(i, why))
        };
        first_error((0..listing.len()).into_par_iter().map(head).collect())
    }

    /// What all pictures become.
    fn target(&self, listing: &Listing, heads: &[Option<Head>]) -> Result<Target> {
        let path = self.path.display();
        let differ = |i: usize, what: &dyn Fn(Option<Head>) -> String, advice: &str| {
            let (one, other) = (listing.name(i), listing.name(0));
            let sentence = format!("{path}: {one} is {} where {other} is {}: {advice}", what(heads[i]), what(heads[0]));
            Err(Error::of(Kind::File, sentence))
        };
        let depth = |head: Option<Head>| head.map_or(Depth::U8, |head| head.depth);
        if let Some(i) = odd(heads, depth) {
            return differ(i, &|head| depth(head).to_string(), "put pictures of one kind into one folder");
        }
        let depth = depth(heads[0]);
        let size = |head: Option<Head>| head.map(|head| (head.width, head.height));
        if self.height.is_none()
            && self.width.is_none()
            && let Some(i) = odd(heads, size)
        {
            let words = |head| size(head).map_or(String::new(), |(w, h)| format!("{w}x{h} (width x height)"));
            return differ(i, &words, "give `height` and `width` to cut and resize all");
        }
        let bands = |head: Option<Head>| head.map(|head| head.channels);
        let plain = depth != Depth::F32 && heads.iter().all(|&head| matches!(bands(head), None | Some(1 | 3)));
        if let Some(i) = odd(heads, bands).filter(|_| !plain) {
            let words = |head| format!("of {} channels", bands(head).unwrap_or_default());
            return differ(i, &words, "put pictures with the same bands into one folder");
        }
        let most = heads.iter().filter_map(|&head| bands(head)).max();
        let channels = self.channels.or(most).unwrap_or(3);
        let bands = most.unwrap_or(channels);
        ensure!(
            if plain { matches!(channels, 1 | 3) } else { channels == bands || (bands, channels) == (1, 3) },
            "images {path} has pictures of {bands} channels, which cannot become {channels}: leave `channels` out"
        );
        let size = |given: Option<usize>, own: fn(Head) -> usize| given.or(heads[0].map(own));
        let known = "the head is read unless both sizes are given";
        Target {
            height: size(self.height, |head| head.height).expect(known),
            width: size(self.width, |head| head.width).expect(known),
            channels,
            depth,
        }
        .checked(&self.path)
    }

    fn classes(&self, listing: &Listing) -> Result<(Option<Vec<usize>>, Vec<String>)> {
        let folders: Vec<String> = (0..listing.len()).filter_map(|i| listing.folder(i)).collect();
        if folders.is_empty() {
            return Ok((None, Vec::new()));
        }
        ensure!(
            Kind::File,
            folders.len() == listing.len(),
            "{} has pictures both beside and inside its sub-folders: put all inside (classes) or all beside",
            self.path.display()
        );
        let (labels, names) = classes_of(&folders);
        Ok((Some(labels), names))
    }

    /// The file for what is decoded, one for both splits; `None` if it cannot be had.
    fn open_cache(&self, listing: &Listing, target: Target) -> Option<Cache> {
        let folder = self.cache.clone().unwrap_or_else(|| {
            std::env::var_os("STEIN_CACHE").map_or_else(std::env::temp_dir, PathBuf::from).join("stein")
        });
        let hex = |digest: sha2::Sha256, bytes| -> String {
            digest.finalize().iter().take(bytes).map(|byte| format!("{byte:02x}")).collect()
        };
        // Another way of decoding is another number here.
        let key = hex(listing.digest().ok()?.chain_update(format!("2 {target:?}")), 16);
        let family = format!("{}-{}-", self.name(), hex(listing.place().ok()?, 8));
        Cache::open(&folder, &family, &format!("{key}.rows"), listing.len(), target.bytes())
    }

    fn load_array(&self, split: Split) -> Result<Data> {
        let path = self.path.display();
        if let Some(stored) = Stored::open(&self.path)
            && let Ok([n, h, w, c]) = self.array_shape(&stored.shape)
            && self.label.is_none()
        {
            let (labels, class_names) = labels_of(array::labels_beside(&self.path)?, self.max_classes, &path)?;
            let part = Part::of(split, n, self.test_fraction, labels.as_deref())?;
            let labels = part.of_own(labels);
            let Part { own, note } = part;
            let target = self.array_target([h, w, c], stored.depth)?;
            if !own.is_empty() && !self.fits_memory(own.len(), &target) {
                let Target { height, width, channels, .. } = target;
                let rows = StoredImages { path: self.path.clone(), stored, size: [h, w, c], own, target };
                rows.read(0)?; // so that settings that do not fit are said at once
                let shape = Shape::Image { height, width, channels };
                let data = Data::from_stream(&self.name(), shape, Arc::new(rows), labels, class_names)?;
                return Ok(data.noted([note]));
            }
        }
        let (array, labels) = array::read(&self.path, self.array.as_deref(), self.label.as_deref())?;
        ensure!(
            self.label.is_none() || labels.is_some(),
            "{path} has no labels beside the images: leave `label` out, or name an npz file"
        );
        let [n, h, w, c] = self.array_shape(&array.shape)?;
        let samples = match array.numbers {
            Numbers::U8(values) => Samples::U8(values),
            Numbers::U16(values) => Samples::U16(values),
            Numbers::Whole(_) => {
                let sentence = format!(
                    "{path} holds integers other than 8 or 16 bits without sign: store images so, or as floats"
                );
                return Err(Error::of(Kind::File, sentence));
            }
            numbers => Samples::F32(numbers.into_f32()),
        };
        let (labels, class_names) = labels_of(labels, self.max_classes, path)?;
        let part = Part::of(split, n, self.test_fraction, labels.as_deref())?;
        let target = self.array_target([h, w, c], samples.depth())?;
        let dim = h * w * c;
        let all = target.gather(&part.own, |i| {
            let picture = Picture { height: h, width: w, channels: c, samples: samples.select(dim, &[i]), room: None };
            target.fit(picture).map_err(|why| no_image(&self.path, i, why))
        })?;
        let Target { height, width, channels, .. } = target;
        let (shape, labels) = (Shape::Image { height, width, channels }, part.of_own(labels));
        Ok(Data::held(&self.name(), shape, all, labels, class_names)?.noted([part.note]))
    }

    /// `[N, H, W, C]` of an array.
    fn array_shape(&self, shape: &[usize]) -> Result<[usize; 4]> {
        match *shape {
            [n, h, w] => Ok([n, h, w, 1]),
            [n, h, w, c] => Ok([n, h, w, c]),
            _ => {
                let path = self.path.display();
                let sentence = format!("{path} has the shape {shape:?}: store images as [N, H, W] or [N, H, W, C]");
                Err(Error::of(Kind::File, sentence))
            }
        }
    }

    fn array_target(&self, [h, w, c]: [usize; 3], depth: Depth) -> Result<Target> {
        let (height, width) = (self.height.unwrap_or(h), self.width.unwrap_or(w));
        Target { height, width, channels: self.channels.unwrap_or(c), depth }.checked(&self.path)
    }

    /// Whether this many pictures may be held in memory.
    fn fits_memory(&self, count: usize, target: &Target) -> bool {
        let (bytes, most) = (count.saturating_mul(target.bytes()), self.memory.saturating_mul(1 << 20));
        // No more than half of the memory there is, whatever the settings say.
        bytes <= most && (bytes <= 1 << 30 || memory::available().is_none_or(|here| bytes as u64 <= here / 2))
    }
}

/// The error for image `i` of an array.
fn no_image(path: &Path, i: usize, why: impl std::fmt::Display) -> Error {
    Error::of(
        Kind::File,
        format!("{}: image {i} (counted from 0) cannot be used ({why}): mend or remove it", path.display()),
    )
}

/// The first picture that is not like the very first one.
fn odd<T: PartialEq>(heads: &[Option<Head>], what: impl Fn(Option<Head>) -> T) -> Option<usize> {
    let first = what(heads[0]);
    heads.iter().position(|&head| what(head) != first)
}

/// What every picture of a set becomes.
#[derive(Debug, Clone, Copy)]
struct Target {
    height: usize,
    width: usize,
    channels: usize,
    depth: Depth,
}

impl Target {
    /// Refuses sizes above the largest, so that what follows can multiply them.
    fn checked(self, path: &Path) -> Result<Self> {
        let (path, Self { height, width, channels, depth }) = (path.display(), self);
        let bytes = [height, width, channels].into_iter().try_fold(depth.bytes(), usize::checked_mul);
        ensure!(
            bytes.is_some_and(|bytes| bytes as u64 <= LARGEST),
            "images {path} would have {height}x{width} pixels of {channels} channels, more than {} MiB each: give a \
             smaller `height` and `width`",
            LARGEST >> 20
        );
        Ok(self)
    }

    /// Bytes of one picture.
    fn bytes(&self) -> usize {
        self.len() * self.depth.bytes()
    }

    /// Values of one picture.
    fn len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// The values of these pictures, made by several threads.
    fn gather(&self, own: &[usize], made: impl Fn(usize) -> Result<Samples> + Sync) -> Result<Samples> {
        let mut all = Samples::with_capacity(self.depth, own.len() * self.len());
        // In parts, so that the pictures do not stand in memory twice.
        for some in own.chunks(1024) {
            for one in first_error(some.par_iter().map(|&i| made(i)).collect())? {
                all.append(&one);
            }
        }
        Ok(all)
    }

    /// Decodes picture `i`.
    fn read(&self, listing: &Listing, i: usize) -> Result<Samples> {
        let bytes = listing.bytes(i).map_err(|e| e.to_string());
        bytes.and_then(|bytes| self.fit(picture::decode(&bytes)?)).map_err(|why| listing.unreadable(i, why))
    }

    fn fit(&self, picture: Picture) -> std::result::Result<Samples, String> {
        let depth = picture.samples.depth();
        if depth != self.depth {
            return Err(format!("it is {depth} where others are {}", self.depth));
        }
        if picture.samples.len() == 0 {
            return Err("it has no pixels".into());
        }
        if picture.samples.not_finite().is_some() {
            return Err("it has a value that is not finite".into());
        }
        Ok(picture.with_channels(self.channels)?.fit(self.height, self.width))
    }
}

/// Pictures that are decoded when they are asked for.
#[derive(Debug)]
struct Pictures {
    listing: Listing,
    /// Those of the split, as numbers in the listing.
    own: Vec<usize>,
    target: Target,
    cache: Option<Cache>,
}

impl Rows for Pictures {
    fn count(&self) -> usize {
        self.own.len()
    }

    fn levels(&self) -> Option<u32> {
        self.target.depth.levels()
    }

    fn row(&self, i: usize, out: &mut [f32]) -> Result<()> {
        let (i, depth) = (self.own[i], self.target.depth);
        let kept = self.cache.as_ref().and_then(|cache| cache.read(i));
        let bytes = match kept {
            Some(bytes) => bytes,
            None => {
                let bytes = self.target.read(&self.listing, i)?.into_bytes();
                if let Some(cache) = &self.cache {
                    cache.write(i, &bytes);
                }
                bytes
            }
        };
        depth.widen(&bytes, out);
        Ok(())
    }
}

/// Images of an array that stays in its file.
#[derive(Debug)]
struct StoredImages {
    path: PathBuf,
    stored: Stored,
    /// Height, width and channels there.
    size: [usize; 3],
    own: Vec<usize>,
    target: Target,
}

impl StoredImages {
    fn read(&self, i: usize) -> Result<Samples> {
        let (i, [height, width, channels]) = (self.own[i], self.size);
        let samples = self.stored.read(i).map_err(|e| no_image(&self.path, i, e))?;
        let picture = Picture { height, width, channels, samples, room: None };
        self.target.fit(picture).map_err(|why| no_image(&self.path, i, why))
    }
}

impl Rows for StoredImages {
    fn count(&self) -> usize {
        self.own.len()
    }

    fn levels(&self) -> Option<u32> {
        self.target.depth.levels()
    }

    fn row(&self, i: usize, out: &mut [f32]) -> Result<()> {
        self.target.depth.widen(&self.read(i)?.into_bytes(), out);
        Ok(())
    }
}
