//! Files of numbers: NumPy arrays and CSV tables.

use std::path::Path;

use stein_nn::write_atomically;

use crate::{Error, Result};

/// Writes numbers as a NumPy array of 32-bit floats of this shape, row by row.
pub fn write_npy_f32(path: impl AsRef<Path>, data: &[f32], shape: &[usize]) -> Result<()> {
    if shape.iter().product::<usize>() != data.len() {
        let sentence = format!("{} numbers cannot have the shape {shape:?}", data.len());
        return Err(Error::new(sentence).at(path.as_ref().display()));
    }
    write_npy(path.as_ref(), "<f4", shape, data.iter().map(|value| value.to_le_bytes()))
}

/// Writes numbers as a one-dimensional NumPy array of 64-bit integers.
pub fn write_npy_i64(path: impl AsRef<Path>, data: &[i64]) -> Result<()> {
    write_npy(path.as_ref(), "<i8", &[data.len()], data.iter().map(|value| value.to_le_bytes()))
}

/// Version 1.0 of the format: magic, length of the header, header, numbers; the numbers start at a multiple of 64.
fn write_npy<const N: usize>(
    path: &Path,
    kind: &str,
    shape: &[usize],
    numbers: impl Iterator<Item = [u8; N]>,
) -> Result<()> {
    // A tuple as Python writes it: a single side keeps its comma.
    let sides: Vec<String> = shape.iter().map(usize::to_string).collect();
    let shape = sides.join(", ") + if sides.len() == 1 { "," } else { "" };
    let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}");
    let length = (header.len() + 11).next_multiple_of(64) - 10;
    write_atomically(path, |file| {
        file.write_all(b"\x93NUMPY\x01\x00")?;
        file.write_all(&(length as u16).to_le_bytes())?;
        writeln!(file, "{header:<0$}", length - 1)?;
        numbers.into_iter().try_for_each(|number| file.write_all(&number))
    })
}

/// Writes rows of `dim` numbers as a CSV table under this header of `dim` names, with a last column `label` if there
/// are labels.
pub fn write_csv(
    path: impl AsRef<Path>,
    header: &[String],
    rows: &[f32],
    dim: usize,
    labels: Option<&[usize]>,
) -> Result<()> {
    let path = path.as_ref();
    if dim == 0 || header.len() != dim || !rows.len().is_multiple_of(dim) {
        let sentence = "a table needs a name for each column and whole rows of one number or more, but there are";
        let counts = format!("{} names and {} numbers for rows of {dim}", header.len(), rows.len());
        return Err(Error::new(format!("{sentence} {counts}")).at(path.display()));
    }
    if let Some(labels) = labels.filter(|labels| labels.len() != rows.len() / dim) {
        let sentence = format!("{} labels were given for {} rows", labels.len(), rows.len() / dim);
        return Err(Error::new(sentence).at(path.display()));
    }
    write_atomically(path, |file| {
        let mut table = csv::Writer::from_writer(file);
        table.write_record(header.iter().map(String::as_str).chain(labels.map(|_| "label")))?;
        for (index, row) in rows.chunks_exact(dim).enumerate() {
            let label = labels.map(|labels| labels[index].to_string());
            table.write_record(row.iter().map(|value| format!("{value:?}")).chain(label))?;
        }
        table.flush()
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_missing_directory_is_a_sentence() {
        let error = write_npy_i64("/nowhere/at/all.npy", &[1]).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/at/all.npy: ") && error.contains("create it"), "{error}");
    }

    #[test]
    fn npy_is_laid_out_as_numpy_documents_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.npy");
        write_npy_f32(&path, &[1.0, -2.5, 3.0, 0.0, 5.0, 6.0], &[3, 2]).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(&bytes[..10], b"\x93NUMPY\x01\x00\x76\x00");
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }";
        assert!(bytes[10..].starts_with(header.as_bytes()) && bytes[127] == b'\n' && bytes.len() == 128 + 24);
        assert_eq!(bytes[132..136], (-2.5_f32).to_le_bytes());
        assert!(write_npy_f32(&path, &[1.0], &[2]).is_err());
    }

    #[test]
    fn csv_has_a_header_and_labels() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.csv");
        let header = ["x".to_string(), "y, up".to_string()];
        write_csv(&path, &header, &[0.1, -2.0, 3e-20, f32::NAN], 2, Some(&[7, 8])).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "x,\"y, up\",label\n0.1,-2.0,7\n3e-20,NaN,8\n");
        assert!(write_csv(&path, &header, &[0.1], 2, None).is_err());
        assert!(write_csv(&path, &header, &[0.1, 0.2], 2, Some(&[])).unwrap_err().to_string().contains("0 labels"));
    }
}
