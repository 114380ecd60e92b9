//! The files of a likelihood: a value for every sample, and the samples in their order.

use std::path::{Path, PathBuf};

use stein::{Error, Kind, Result, ensure};
use stein_base::files::PendingFile;

use super::{LikelihoodOptions, LikelihoodReport};
use crate::{
    Model, Observed,
    arrays::NpyFile,
    replacing::{Recorded, beside, said},
    subject,
};

/// The files of a report, begun before the work.
pub(super) struct Outputs<'a> {
    values: Option<(Recorded, PendingFile, &'a Path)>,
    rank: Option<(Recorded, PendingFile, &'a Path)>,
}

impl<'a> Outputs<'a> {
    pub(super) fn new(model: &Model, options: &'a LikelihoodOptions) -> Result<Self> {
        let inputs: Vec<PathBuf> = model
            .file
            .iter()
            .cloned()
            .chain(options.probe.clone())
            .chain(options.data.name.as_ref().map(PathBuf::from))
            .collect();
        let open = |path: &'a PathBuf, ending: &str| {
            let fits = path.extension().is_some_and(|found| found.eq_ignore_ascii_case(ending));
            ensure!(fits, "{} is written as .{ending}: end its name so", path.display());
            let recorded = Recorded::new(&beside(path, ".json"), inputs.clone(), options.force)?;
            let file = recorded.start(path)?;
            Ok((recorded, file, path.as_path()))
        };
        Ok(Self {
            values: options.output.as_ref().map(|path| open(path, "npy")).transpose()?,
            rank: options.rank.as_ref().map(|path| open(path, "csv")).transpose()?,
        })
    }

    pub(super) fn write(self, report: &LikelihoodReport, observed: &Observed) -> Result<()> {
        if let Some((recorded, file, path)) = self.values {
            let mut array = NpyFile::<f64>::within(file, &[report.n])?;
            array.write(&report.values)?;
            array.finish()?;
            recorded.write(&[path], said(report))?;
        }
        if let Some((recorded, file, path)) = self.rank {
            rank(file, report, observed)?;
            recorded.write(&[path], said(report))?;
        }
        Ok(())
    }
}

/// Writes the samples, the least likely first.
fn rank(file: PendingFile, report: &LikelihoodReport, observed: &Observed) -> Result<()> {
    let unlikely = |i: &usize| if report.unit == "nats" { report.values[*i] } else { -report.values[*i] };
    let mut order: Vec<usize> = (0..report.n).collect();
    order.sort_by(|i, j| unlikely(i).total_cmp(&unlikely(j)));
    let data = &observed.data;
    let mut table = csv::Writer::from_writer(file);
    let failed = |error: csv::Error| Error::of(Kind::File, format!("the ranking cannot be written: {error}"));
    let label = data.labels.as_ref().map(|_| data.label_name.clone().unwrap_or_else(subject::label));
    let header = ["row", report.unit].into_iter().map(str::to_owned);
    table.write_record(header.chain(label).chain(data.columns.iter().cloned())).map_err(failed)?;
    for i in order {
        let cells = if data.columns.is_empty() { Vec::new() } else { observed.values(&[i])? };
        let class = data.labels.as_ref().map(|labels| data.class_names[labels[i]].clone());
        let numbers = [i.to_string(), report.values[i].to_string()].into_iter();
        table.write_record(numbers.chain(class).chain(cells.iter().map(f32::to_string))).map_err(failed)?;
    }
    let file =
        table.into_inner().map_err(|error| Error::of(Kind::File, format!("the ranking cannot be written: {error}")))?;
    file.commit()
}
