//! A folder, or a tar file, of pictures: PNG, JPEG and WebP.
//!
//! The pictures are taken in the order of their paths, 8 bits a channel, transparency dropped. Where they lie in
//! sub-folders, the first folder below the path is the class. Every tenth picture is held out for the test split.

use crate::{
    Data, Error, Result, Split,
    error::fail,
    source::{classes_of, one_tenth},
};
use image::{DynamicImage, imageops::FilterType};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

/// A folder or a tar file of pictures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Images {
    /// The folder, or a file that ends with `.tar`.
    pub path: PathBuf,
    /// Pixels down; by default that of the first picture, which all must share. With this or `width` given, the centre
    /// of each picture is cut to the aspect and resized.
    #[serde(default)]
    pub height: Option<usize>,
    /// Pixels across; see `height`.
    #[serde(default)]
    pub width: Option<usize>,
    /// 1 (grey) or 3 (colour); by default 1 where all pictures are stored as grey.
    #[serde(default)]
    pub channels: Option<usize>,
    /// The part, 0 to 1, held out for the test split, spread evenly; default 0.1.
    #[serde(default = "one_tenth")]
    pub test_fraction: f64,
}

impl Default for Images {
    fn default() -> Images {
        Images { path: PathBuf::new(), height: None, width: None, channels: None, test_fraction: one_tenth() }
    }
}

/// A picture: its path below the folder, parts joined by `/`, and its bytes where they are at hand.
type Entry = (String, Option<Vec<u8>>);

impl Images {
    pub(crate) fn load(&self, split: Split) -> Result<Data> {
        let path = self.path.display();
        if self.path.as_os_str().is_empty() {
            fail!("images needs `path`: name a folder of pictures");
        }
        if self.channels.is_some_and(|c| c != 1 && c != 3) || self.height == Some(0) || self.width == Some(0) {
            fail!("images {path} cannot have that size: give 1 or 3 channels, and a height and width above 0");
        }
        let entries = if self.path.is_dir() { walk(&self.path)? } else { untar(&self.path)? };
        // All are decoded for either split, so that both agree on size and channels.
        let pictures: Vec<DynamicImage> = entries.par_iter().map(|e| self.decode(e)).collect::<Result<_>>()?;
        let Some(first) = pictures.first() else {
            fail!("{path} holds no png, jpg, jpeg or webp file: name a folder of pictures");
        };
        let (height, width) =
            (self.height.unwrap_or(first.height() as usize), self.width.unwrap_or(first.width() as usize));
        if self.height.is_none() && self.width.is_none() {
            let odd = |p: &DynamicImage| (p.height(), p.width()) != (first.height(), first.width());
            if let Some(i) = pictures.iter().position(odd) {
                fail!(
                    "{path}: {} is {}x{} where {} is {width}x{height} (width x height): give `height` and `width` to \
                     cut and resize all",
                    entries[i].0,
                    pictures[i].width(),
                    pictures[i].height(),
                    entries[0].0
                );
            }
        }
        let colour = pictures.iter().any(|p| p.color().has_color());
        let channels = self.channels.unwrap_or(if colour { 3 } else { 1 });
        let (labels, class_names) = self.classes(&entries)?;
        let own: Vec<usize> = (0..entries.len()).filter(|&i| split.holds(i, self.test_fraction)).collect();
        let fit = |&i: &usize| fit(&pictures[i], height, width, channels);
        let pixels = own.par_iter().map(fit).collect::<Vec<_>>().concat();
        let labels = labels.map(|labels| own.iter().map(|&i| labels[i]).collect());
        let name = self.path.file_stem().map_or("images".into(), |name| name.to_string_lossy());
        Data::from_pixels(&name, [height, width, channels], 256, pixels, labels, class_names)
    }

    fn decode(&self, (name, bytes): &Entry) -> Result<DynamicImage> {
        let picture = match bytes {
            Some(bytes) => image::load_from_memory(bytes).map_err(|e| e.to_string()),
            None => fs::read(self.path.join(name))
                .map_err(|e| e.to_string())
                .and_then(|bytes| image::load_from_memory(&bytes).map_err(|e| e.to_string())),
        };
        let at = self.path.display();
        picture.map_err(|e| Error::new(format!("{at}: {name} cannot be read as a picture ({e}): mend or remove it")))
    }

    fn classes(&self, entries: &[Entry]) -> Result<(Option<Vec<usize>>, Vec<String>)> {
        let folder = |(name, _): &Entry| name.split_once('/').map(|(folder, _)| folder.to_string());
        let folders: Vec<String> = entries.iter().filter_map(folder).collect();
        if folders.is_empty() {
            return Ok((None, Vec::new()));
        }
        if folders.len() != entries.len() {
            fail!(
                "{} has pictures both beside and inside its sub-folders: put all inside (classes) or all beside",
                self.path.display()
            );
        }
        let (labels, names) = classes_of(&folders);
        Ok((Some(labels), names))
    }
}

/// Whether a file's name is that of a picture; what begins with a dot is hidden.
fn is_picture(name: &str) -> bool {
    let ending = Path::new(name).extension().map(|e| e.to_string_lossy().to_lowercase());
    !name.split('/').any(|part| part.starts_with('.'))
        && ending.is_some_and(|e| ["png", "jpg", "jpeg", "webp"].contains(&e.as_str()))
}

/// The pictures below `root`, sorted by path.
fn walk(root: &Path) -> Result<Vec<Entry>> {
    let mut names = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        let unreadable = |e| Error::new(format!("{} cannot be listed: {e}", root.join(&folder).display()));
        for entry in fs::read_dir(root.join(&folder)).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let name = format!("{folder}{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                folders.push(name + "/");
            } else if is_picture(&name) {
                names.push((name, None));
            }
        }
    }
    names.sort();
    Ok(names)
}

/// The pictures of a tar file, sorted by path; a folder that holds all of them is left out of the paths.
fn untar(path: &Path) -> Result<Vec<Entry>> {
    let unreadable =
        |e| Error::new(format!("{} is neither a folder nor a readable tar file ({e}): name one", path.display()));
    let mut archive = tar::Archive::new(fs::File::open(path).map_err(unreadable)?);
    let mut entries = Vec::new();
    for entry in archive.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        let name = entry.path().map_err(unreadable)?.to_string_lossy().trim_start_matches("./").to_string();
        if entry.header().entry_type().is_file() && is_picture(&name) {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(unreadable)?;
            entries.push((name, Some(bytes)));
        }
    }
    entries.sort();
    let top = entries.first().and_then(|(name, _)| Some(format!("{}/", name.split_once('/')?.0)));
    if let Some(top) = top.filter(|top| entries.iter().all(|(name, _)| name.starts_with(top))) {
        entries.iter_mut().for_each(|(name, _)| *name = name[top.len()..].to_string());
    }
    Ok(entries)
}

/// The centre of the picture cut to the aspect, resized (Lanczos), as `[height, width, channels]` bytes.
fn fit(picture: &DynamicImage, height: usize, width: usize, channels: usize) -> Vec<u8> {
    let (h, w) = (picture.height() as usize, picture.width() as usize);
    let as_bytes = |p: &DynamicImage| if channels == 1 { p.to_luma8().into_raw() } else { p.to_rgb8().into_raw() };
    if (h, w) == (height, width) {
        return as_bytes(picture);
    }
    let cut_w = w.min((h * width + height / 2) / height).max(1);
    let cut_h = h.min((w * height + width / 2) / width).max(1);
    let cut = picture.crop_imm(((w - cut_w) / 2) as u32, ((h - cut_h) / 2) as u32, cut_w as u32, cut_h as u32);
    as_bytes(&cut.resize_exact(width as u32, height as u32, FilterType::Lanczos3))
}
