//! What every metric of the registry promises, walked one by one.

use stein_base::{Keys, Purpose};
use stein_metrics::*;

const CLASSES: u32 = 3;

/// Numbers in a row: pictures of 12 by 12 where it has to be pictures.
fn dim(metric: &AnyMetric) -> usize {
    if metric.needs().content == Content::Picture { 144 } else { 16 }
}

/// Rows and labels of a side that suit a metric.
struct Given {
    side: Side,
    rows: Vec<f32>,
    labels: Vec<u32>,
}

/// 300 rows of the reference, 150 held out, and as many samples as the metric wants, of a law a little off.
fn given(metric: &AnyMetric) -> Vec<Given> {
    let (needs, dim) = (metric.needs(), dim(metric));
    let samples = match needs.pairs {
        Pairing::None => 410,
        Pairing::Rows => 300,
        Pairing::Ensembles => 300 * 20,
    };
    [(Side::Reference, 300, 0.0), (Side::Samples, samples, 0.3), (Side::HeldOut, 150, 0.0)]
        .into_iter()
        .map(|(side, count, shift)| {
            let keys = Keys::range(side as u64 + 1, 0, count);
            let rows = keys.normal(Purpose::Point, 0, dim).iter().map(|value| (value + shift) as f32).collect();
            Given { side, rows, labels: (0..count as u32).map(|row| row % CLASSES).collect() }
        })
        .collect()
}

/// Measures with rows handed over `at_once`, side after side or in turns.
fn measured(metric: &AnyMetric, given: &[Given], at_once: usize, in_turns: bool) -> Result<Measured> {
    let dim = dim(metric);
    let mut session = Session::new(std::slice::from_ref(metric), dim)?;
    let mut batches: Vec<(usize, usize)> = Vec::new();
    for (number, side) in given.iter().enumerate() {
        batches.extend((0..side.labels.len()).step_by(at_once).map(|first| (first, number)));
    }
    if in_turns {
        batches.sort_unstable();
    }
    for (first, number) in batches {
        let (side, end) = (&given[number], (first + at_once).min(given[number].labels.len()));
        let batch = Batch::from(&side.rows[first * dim..end * dim]).labeled(&side.labels[first..end]);
        session.update(side.side, batch)?;
    }
    session.finish().pop().unwrap()
}

/// Everything but what a note says, bit for bit.
fn bits(measured: &Measured) -> Vec<u64> {
    let parts = measured.parts.iter().map(|(_, value)| value.to_bits());
    [measured.value.to_bits(), measured.error.map_or(0, f64::to_bits)].into_iter().chain(parts).collect()
}

#[test]
fn batches_do_not_change_the_last_bit() {
    for metric in AnyMetric::all() {
        let given = given(&metric);
        let whole = measured(&metric, &given, usize::MAX / 2, false).unwrap();
        assert!(whole.value.is_finite(), "{}", metric.kind());
        assert!(whole.error.is_some_and(|error| error >= 0.0), "{} has an error", metric.kind());
        for at_once in [1, 7, 64] {
            for in_turns in [false, true] {
                let cut = measured(&metric, &given, at_once, in_turns).unwrap();
                assert_eq!(bits(&whole), bits(&cut), "{} in batches of {at_once}", metric.kind());
                assert_eq!(whole.reference, cut.reference, "{}", metric.kind());
            }
        }
    }
}

#[test]
fn threads_do_not_change_the_last_bit() {
    for metric in AnyMetric::all() {
        let given = given(&metric);
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            bits(&pool.install(|| measured(&metric, &given, 50, true)).unwrap())
        };
        let one = with(1);
        assert!([2, 3].into_iter().all(|threads| with(threads) == one), "{}", metric.kind());
    }
}

#[test]
fn both_precisions_of_the_same_numbers_give_one_result() {
    for metric in AnyMetric::all() {
        let (given, dim) = (given(&metric), dim(&metric));
        let mut session = Session::new(std::slice::from_ref(&metric), dim).unwrap();
        for side in &given {
            let wide: Vec<f64> = side.rows.iter().map(|&value| f64::from(value)).collect();
            // The first half as it is, so that what is kept changes its precision on the way.
            let half = side.labels.len() / 2;
            let (first, second) = side.labels.split_at(half);
            session.update(side.side, Batch::from(&side.rows[..half * dim]).labeled(first)).unwrap();
            session.update(side.side, Batch::from(&wide[half * dim..]).labeled(second)).unwrap();
        }
        let wide = session.finish().pop().unwrap().unwrap();
        let single = measured(&metric, &given, 1000, false).unwrap();
        assert_eq!((bits(&wide), wide.reference), (bits(&single), single.reference), "{}", metric.kind());
    }
}

#[test]
fn a_session_measures_all_as_each_alone() {
    let metrics: Vec<AnyMetric> =
        AnyMetric::all().into_iter().filter(|metric| metric.needs().pairs == Pairing::None).collect();
    let given = given(&metrics[0]);
    let mut session = Session::new(&metrics, dim(&metrics[0])).unwrap();
    for side in &given {
        session.update(side.side, Batch::from(&side.rows).labeled(&side.labels)).unwrap();
    }
    for (metric, together) in metrics.iter().zip(session.finish()) {
        let alone = measured(metric, &given, 1000, false).unwrap();
        assert_eq!(bits(&together.unwrap()), bits(&alone), "{}", metric.kind());
    }
}

#[test]
fn what_is_wrong_is_said() {
    for metric in AnyMetric::all() {
        let (kind, needs, dim, given) = (metric.kind(), metric.needs(), dim(&metric), given(&metric));
        let sentence = |result: Result<Measured>| result.unwrap_err().to_string();
        // A side that is missing.
        for side in given.iter().map(|given| given.side) {
            let needed = match side {
                Side::Reference => needs.reference,
                Side::Samples => true,
                Side::HeldOut => needs.held_out == Wanted::Needed,
            };
            let mut session = Session::new(std::slice::from_ref(&metric), dim).unwrap();
            for given in given.iter().filter(|given| given.side != side) {
                session.update(given.side, Batch::from(&given.rows).labeled(&given.labels)).unwrap();
            }
            let result = session.finish().pop().unwrap();
            match needed {
                true => assert!(sentence(result).contains(&format!("no rows of the {}", side.name())), "{kind}"),
                false => drop(result.unwrap_or_else(|error| panic!("{kind} without {}: {error}", side.name()))),
            }
        }
        let mut session = Session::new(std::slice::from_ref(&metric), dim).unwrap();
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut rows = given[1].rows.clone();
            rows[5 * dim + 3] = odd;
            let error = session.update(Side::Samples, &rows).unwrap_err().to_string();
            assert!(error.contains("samples: value 3 of row 5 is") && error.contains("finite"), "{kind}: {error}");
        }
        let error = session.update(Side::Reference, &given[0].rows[..dim + 1]).unwrap_err().to_string();
        assert!(error.contains(&format!("{} values make no rows of {dim}", dim + 1)), "{kind}: {error}");
        let error = session.update(Side::Samples, Batch::from(&given[1].rows).labeled(&[1])).unwrap_err().to_string();
        assert!(error.contains("1 labels for"), "{kind}: {error}");
        if needs.labels {
            let mut session = Session::new(std::slice::from_ref(&metric), dim).unwrap();
            given.iter().for_each(|given| session.update(given.side, &given.rows).unwrap());
            assert!(sentence(session.finish().pop().unwrap()).contains("have no labels"), "{kind}");
        }
        if needs.pairs != Pairing::None {
            let mut unpaired = given;
            unpaired[1].rows.truncate(dim * 299);
            unpaired[1].labels.truncate(299);
            let error = sentence(measured(&metric, &unpaired, 1000, false));
            assert!(error.contains("299 samples"), "{kind}: {error}");
        }
    }
    assert!(Session::new(&AnyMetric::all(), 0).is_err());
}

#[test]
fn settings_out_of_range_are_refused() {
    for (kind, settings) in [
        ("frechet", "parts = 1"),
        ("frechet", "reference = 'no such file.npz'"),
        ("kernel", "subset_size = 1"),
        ("inception_score", "splits = 0"),
        ("precision", "k = 0"),
        ("recall", "k = 0"),
        ("density", "k = 0"),
        ("coverage", "k = 0"),
        ("agreement", "k = 0"),
        ("c2st", "k = 2"),
        ("wasserstein", "p = 3"),
        ("sliced_wasserstein", "p = 0"),
        ("sliced_wasserstein", "projections = 0"),
        ("mmd", "sigma = 0.0"),
        ("copying", "cells = 0"),
        ("interval_coverage", "level = 1.0"),
        ("psnr", "range = 0.0"),
        ("ssim", "shape = [3, 4, 5]"),
    ] {
        let metric = AnyMetric::with_settings(kind, settings.parse().unwrap()).unwrap();
        let Err(error) = Session::new(&[metric], 16) else { panic!("{kind} with {settings}") };
        assert!(error.to_string().starts_with(&format!("{kind}: ")), "{error}");
    }
}

#[test]
fn settings_are_written_and_read() {
    for metric in AnyMetric::all() {
        let written = toml::to_string(&metric).unwrap();
        assert_eq!(toml::from_str::<AnyMetric>(&written).unwrap(), metric);
    }
}

#[test]
fn too_few_rows_are_an_error_or_noted() {
    for metric in AnyMetric::all() {
        let mut few = given(&metric);
        let pairs = metric.needs().pairs;
        for side in &mut few {
            let rows = if side.side == Side::Samples && pairs == Pairing::Ensembles { 2 } else { 1 };
            side.rows.truncate(rows * dim(&metric));
            side.labels.truncate(rows);
        }
        // Whatever it says, it is a number or a sentence, not a NaN.
        match measured(&metric, &few, 1, false) {
            Ok(measured) => assert!(!measured.value.is_nan(), "{}: {measured:?}", metric.kind()),
            Err(error) => assert!(error.to_string().len() > 30, "{}: {error}", metric.kind()),
        }
    }
}
