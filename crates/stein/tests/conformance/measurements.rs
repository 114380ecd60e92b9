//! Measurements: adjoints, decompositions and derivatives of every one, and what they measure against definitions, closed forms and
//! stored values of published code.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use stein::{
    Key, Purpose,
    inverse::{
        AnyMeasurement, Measurement, Operator,
        measurement::{Blur, BlurKernel, Files, NoFiles},
    },
};

use crate::stochastic::Stored;

const COLOR: &[usize] = &[16, 16, 3];
const GRAY: &[usize] = &[8, 12, 1];
const SERIES: &[usize] = &[12, 2];
const ROW: &[usize] = &[7];

/// Files that are made up: what they are called says what is in them.
#[derive(Debug)]
struct MadeUp;

impl Files for MadeUp {
    fn array(&self, path: &str) -> stein::Result<(Vec<f64>, Vec<usize>)> {
        Ok(match path {
            "kernel.npy" => ((1..=12).map(|i| f64::from(i * i % 7) / 20.0).collect(), vec![3, 4]),
            "large.npy" => (vec![0.1; 81], vec![9, 9]),
            "maps.npy" => (normal(41, 2 * 2 * 96), vec![2, 8, 12, 2]),
            "mask.npy" => ((0..96).map(|i| f64::from(i % 3 == 0)).collect(), vec![8, 12]),
            other => return NoFiles.array(other),
        })
    }

    fn picture(&self, path: &str) -> stein::Result<(Vec<f64>, [usize; 2])> {
        Ok(match path {
            "mask.png" => ((0..256).map(|i| f64::from(i % 5 != 0)).collect(), [16, 16]),
            "kernel.png" => (vec![0.0, 0.5, 0.25, 0.25, 1.0, 0.0], [2, 3]),
            "black.png" => (vec![0.0; 256], [16, 16]),
            other => return NoFiles.picture(other),
        })
    }
}

fn measurement(text: &str) -> AnyMeasurement {
    toml::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn operator(text: &str, shape: &[usize]) -> Arc<dyn Operator> {
    measurement(text).operator(shape, &MadeUp).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Every measurement, with settings that make a difference and the samples they are for.
fn cases() -> Vec<(&'static str, &'static [usize])> {
    let cases: Vec<(&str, &[&[usize]])> = vec![
        ("kind = 'identity'", &[COLOR, SERIES, ROW]),
        ("kind = 'matrix'\nrows = [[1, 0, 2, 0, 0, 0, 1], [0, 1, 0, 0, -1, 0, 0]]", &[ROW]),
        ("kind = 'inpaint'", &[COLOR, GRAY, SERIES, ROW]),
        ("kind = 'inpaint'\nknown = [4, 0, 3]", &[SERIES, ROW]),
        ("kind = 'inpaint'\nmask = { kind = 'box' }", &[COLOR, SERIES]),
        ("kind = 'inpaint'\nmask = { kind = 'box', height = 3, width = 2, top = 0, left = 5 }", &[GRAY]),
        ("kind = 'inpaint'\nmask = { kind = 'random', missing = 0.9, seed = 3 }", &[COLOR, GRAY]),
        ("kind = 'inpaint'\nmask = { kind = 'columns' }", &[COLOR]),
        ("kind = 'inpaint'\nmask = { kind = 'rows', known = [2, 5] }", &[GRAY, SERIES]),
        ("kind = 'inpaint'\nmask = { kind = 'entries', known = [1, 6, 2] }", &[GRAY, SERIES, ROW]),
        ("kind = 'inpaint'\nmask = { kind = 'file', file = 'mask.png' }", &[COLOR]),
        ("kind = 'inpaint'\nmask = { kind = 'file', file = 'mask.npy' }", &[GRAY]),
        ("kind = 'colorize'", &[COLOR]),
        ("kind = 'colorize'\nweights = [0.299, 0.587, 0.114]", &[COLOR]),
        ("kind = 'super_resolution'", &[COLOR, GRAY, SERIES]),
        ("kind = 'super_resolution'\nfactor = 2\nfilter = 'bicubic'", &[COLOR, GRAY, SERIES]),
        ("kind = 'super_resolution'\nfilter = 'bicubic'", &[GRAY]),
        ("kind = 'blur'", &[COLOR, GRAY, SERIES]),
        ("kind = 'blur'\nboundary = 'reflect'", &[COLOR, GRAY, SERIES]),
        ("kind = 'blur'\nkernel = { kind = 'gaussian', std = 1.5, std_along = 0.7, size = 7 }", &[COLOR]),
        ("kind = 'blur'\nkernel = { kind = 'uniform', size = 4 }", &[COLOR, SERIES]),
        ("kind = 'blur'\nkernel = { kind = 'uniform' }\nboundary = 'reflect'", &[GRAY]),
        ("kind = 'blur'\nkernel = { kind = 'motion', size = 7 }", &[COLOR]),
        ("kind = 'blur'\nkernel = { kind = 'motion', size = 5, seed = 2 }\nboundary = 'reflect'", &[GRAY]),
        ("kind = 'blur'\nkernel = { kind = 'file', file = 'kernel.npy' }", &[GRAY]),
        ("kind = 'blur'\nkernel = { kind = 'file', file = 'kernel.npy' }\nboundary = 'reflect'", &[GRAY]),
        ("kind = 'blur'\nkernel = { kind = 'file', file = 'kernel.png' }", &[COLOR]),
        ("kind = 'compressed_sensing'", &[COLOR, GRAY, SERIES, ROW]),
        ("kind = 'compressed_sensing'\nrows = 'sign'\nratio = 0.5\nseed = 1", &[GRAY]),
        ("kind = 'compressed_sensing'\nrows = 'hadamard'\nratio = 0.3", &[COLOR]),
        ("kind = 'mri'", &[COLOR, GRAY]),
        ("kind = 'mri'\nlines = 'equispaced'\nacceleration = 2\ncenter_fraction = 0.2", &[GRAY]),
        ("kind = 'mri'\nlines = 'gaussian'\nacceleration = 3\nseed = 5", &[COLOR]),
        ("kind = 'mri'\nlines = 'all'", &[GRAY]),
        ("kind = 'mri'\nmask = 'mask.npy'", &[GRAY]),
        ("kind = 'mri'\ncoils = 3\nacceleration = 2", &[GRAY]),
        ("kind = 'mri'\nmaps = 'maps.npy'", &[GRAY]),
        ("kind = 'mri'\ncomplex = true", &[&[8, 12, 2]]),
        ("kind = 'mri'\ncomplex = true\ncoils = 2\nmask = 'mask.npy'", &[&[8, 12, 2]]),
        ("kind = 'ct'\nangles = 7", &[COLOR, GRAY]),
        ("kind = 'ct'\nangles = 9\nstart = 20\nend = 80\ndetectors = 9", &[GRAY]),
        ("kind = 'phase_retrieval'", &[COLOR, GRAY]),
        ("kind = 'phase_retrieval'\nmagnitude = 'intensity'\noversampling = 0", &[GRAY]),
        ("kind = 'hdr'", &[COLOR]),
        ("kind = 'hdr'\ngain = 1.5\ncenter = 0", &[GRAY]),
        ("kind = 'clip'", &[COLOR, SERIES, ROW]),
        ("kind = 'quantize'", &[COLOR, SERIES, ROW]),
        ("kind = 'jpeg'", &[COLOR, GRAY, &[9, 5, 3]]),
        ("kind = 'jpeg'\nquality = 100\nchroma = 'half'", &[COLOR, &[17, 6, 3]]),
    ];
    cases.iter().flat_map(|(text, shapes)| shapes.iter().map(move |shape| (*text, *shape))).collect()
}

fn normal(seed: u64, count: usize) -> Vec<f64> {
    let mut values = vec![0.0; count];
    Key::new(seed, Purpose::Own(7)).fill_normal(&mut values);
    values
}

/// A picture: numbers from 0 to 1, none of them at the borders.
fn picture(seed: u64, count: usize) -> Vec<f64> {
    normal(seed, count).into_iter().map(|z| 0.5 + 0.4 * z.tanh()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

/// The relative error of numbers.
fn error(found: &[f64], wanted: &[f64]) -> f64 {
    norm(&difference(found, wanted)) / norm(wanted).max(1e-300)
}

#[test]
fn every_measurement_is_among_the_cases_and_has_the_shape_it_says() {
    let kinds: BTreeSet<String> = cases().iter().map(|(text, _)| measurement(text).kind().to_owned()).collect();
    let all: BTreeSet<String> = AnyMeasurement::all().iter().map(|of| of.kind().to_owned()).collect();
    assert_eq!(kinds, all);
    for (text, shape) in cases() {
        let of = measurement(text);
        let again: AnyMeasurement = toml::from_str(&toml::to_string(&of).unwrap()).unwrap();
        assert_eq!(of, again, "{text}");
        let operator = of.operator(shape, &MadeUp).unwrap();
        assert_eq!(operator.inputs(), shape.iter().product::<usize>(), "{text}");
        let own = of.shape(shape, &MadeUp).unwrap();
        assert_eq!(operator.outputs(), own.iter().product::<usize>(), "{text} of {shape:?} has the shape {own:?}");
    }
}

#[test]
fn a_linear_measurement_has_its_adjoint_and_its_decomposition() {
    for (text, shape) in cases() {
        let operator = operator(text, shape);
        let Some(linear) = operator.linear() else { continue };
        let (n, m) = (operator.inputs(), operator.outputs());
        let (x, y) = (normal(1, n), normal(2, m));
        let ax = operator.apply(&x);
        let what = format!("{text} of {shape:?}");
        // Rounding of sums of up to a few thousand products.
        let scale = norm(&ax) * norm(&y) + norm(&x) * norm(&linear.adjoint(&y));
        assert!((dot(&ax, &y) - dot(&x, &linear.adjoint(&y))).abs() <= 1e-12 * scale, "{what}: the adjoint");

        let spectrum = linear.spectrum().unwrap();
        let (s, r) = (spectrum.values(), spectrum.values().len());
        assert_eq!(spectrum.dim(), n, "{what}");
        assert!(r <= n.min(m) && s.iter().all(|s| *s > 0.0), "{what}");
        let (c, d) = (normal(3, n), normal(4, r));
        let at = |of: &[f64], wanted: &[f64], which: &str| {
            // Of decompositions that are worked out, and of singular values down to a millionth.
            assert!(error(of, wanted) < 1e-10, "{what}: {which}, {}", error(of, wanted));
        };
        at(&spectrum.coordinates(&spectrum.sample(&c)), &c, "VᵀV = I");
        at(&spectrum.sample(&spectrum.coordinates(&x)), &x, "VVᵀ = I");
        let (left, right) = (dot(&spectrum.sample(&c), &x), dot(&c, &spectrum.coordinates(&x)));
        assert!((left - right).abs() < 1e-10 * norm(&c) * norm(&x), "{what}: Vᵀ is the transpose of V");
        at(&spectrum.measured(&spectrum.measurement(&d)), &d, "UᵀU = I");
        let (left, right) = (dot(&spectrum.measurement(&d), &y), dot(&d, &spectrum.measured(&y)));
        assert!((left - right).abs() < 1e-10 * norm(&d) * norm(&y), "{what}: Uᵀ is the transpose of U");
        let scaled: Vec<f64> = spectrum.coordinates(&x).iter().zip(s).map(|(c, s)| s * c).collect();
        at(&spectrum.measurement(&scaled), &ax, "USVᵀ = A");
        // The pseudo-inverse: A A⁺ A = A and A⁺ A A⁺ = A⁺. Small singular values amplify rounding as much as they are small.
        let condition = s.iter().copied().fold(0.0, f64::max) / s.iter().copied().fold(f64::INFINITY, f64::min);
        let inverse = |y: &[f64]| spectrum.back(y, &|s| 1.0 / s);
        let again = operator.apply(&inverse(&ax));
        assert!(error(&again, &ax) < 1e-12 * condition.max(100.0), "{what}: AA⁺A = A, {}", error(&again, &ax));
        let back = inverse(&y);
        let again = inverse(&operator.apply(&back));
        assert!(error(&again, &back) < 1e-12 * condition.max(100.0), "{what}: A⁺AA⁺ = A⁺, {}", error(&again, &back));
    }
}

#[test]
fn derivatives_are_those_of_differences_and_transposes_of_each_other() {
    for (text, shape) in cases() {
        let operator = operator(text, shape);
        let (x, v) = (picture(11, operator.inputs()), normal(12, operator.inputs()));
        let w = normal(13, operator.outputs());
        let (push, pull) = (operator.push(&x, &v), operator.pull(&x, &w));
        let scale = norm(&push) * norm(&w) + norm(&v) * norm(&pull);
        assert!((dot(&push, &w) - dot(&v, &pull)).abs() <= 1e-12 * scale, "{text} of {shape:?}: ⟨Jv, w⟩ = ⟨v, Jᵀw⟩");
        // Straight-through derivatives are looked at below.
        if text.contains("quantize") || text.contains("jpeg") {
            continue;
        }
        let step = 1e-5;
        let along = |by: f64| operator.apply(&x.iter().zip(&v).map(|(x, v)| x + by * v).collect::<Vec<f64>>());
        let slope: Vec<f64> = difference(&along(step), &along(-step)).iter().map(|d| d / (2.0 * step)).collect();
        // Rounding over the step is 1e-11; an amplitude near 0 and a limit within the step have the most curvature.
        assert!(error(&push, &slope) < 1e-6, "{text} of {shape:?}: {}", error(&push, &slope));
    }
}

#[test]
fn straight_through_derivatives_are_those_of_long_steps() {
    let quantize = operator("kind = 'quantize'\nlevels = 11", ROW);
    let x = vec![0.12, 0.44, 0.5, 0.61, 0.77, 0.33, 0.28];
    // A whole level up moves the nearest level by as much.
    let up: Vec<f64> = x.iter().map(|x| x + 0.1).collect();
    let moved = difference(&quantize.apply(&up), &quantize.apply(&x));
    assert!(moved.iter().zip(quantize.push(&x, &[0.1; 7])).all(|(a, b)| (a - b).abs() < 1e-12));
    assert_eq!(quantize.pull(&[-0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 1.5], &[1.0; 7]), [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]);
    let levels: Vec<f64> = quantize.apply(&x).iter().map(|y| y * 10.0).collect();
    assert!(levels.iter().all(|level| (level - level.round()).abs() < 1e-12), "{levels:?}");
    for text in ["kind = 'jpeg'\nquality = 100", "kind = 'jpeg'\nquality = 100\nchroma = 'half'"] {
        let jpeg = operator(text, COLOR);
        let (x, v) = (picture(21, 768), normal(22, 768));
        let there: Vec<f64> = x.iter().zip(&v).map(|(x, v)| x + v).collect();
        let moved = difference(&jpeg.apply(&there), &jpeg.apply(&x));
        let push = jpeg.push(&x, &v);
        // Steps of 1/255 round both ends by half of that at most, and colors stretch chroma by 1.772 at most, on three channels.
        assert!(norm(&difference(&moved, &push)) < 768f64.sqrt() * 2.0 / 255.0, "{text}");
        if text.ends_with("100") {
            // The cosine transform is orthonormal and the colors go back exactly.
            assert!(error(&push, &v) < 1e-12, "{text}");
        }
    }
}

/// Channels last of what is stored `[n, channels, height, width]`.
fn channels_last(x: &[f64], channels: usize) -> Vec<f64> {
    let places = x.len() / channels;
    (0..x.len()).map(|at| x[at % channels * places + at / channels]).collect()
}

#[test]
fn masks_pooling_and_blur_have_the_residuals_and_the_corrections_of_published_code() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden_methods/inverse_dps");
    let (Ok(bytes), Ok(text)) =
        (std::fs::read(folder.join("io.safetensors")), std::fs::read(folder.join("fixture.json")))
    else {
        println!("skipped: the golden set inverse_dps is not here");
        return;
    };
    let stored = Stored(bytes);
    let fixture: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let mask = stored.numbers("mask");
    let known: Vec<usize> = (0..256).filter(|&i| mask[i] > 0.5).collect();
    let entries: Vec<usize> = known.iter().flat_map(|place| (0..3).map(move |channel| 3 * place + channel)).collect();
    #[derive(Debug)]
    struct Taps(Vec<f64>);
    impl Files for Taps {
        fn array(&self, _: &str) -> stein::Result<(Vec<f64>, Vec<usize>)> {
            Ok((self.0.iter().flat_map(|a| self.0.iter().map(move |b| a * b)).collect(), vec![5, 5]))
        }

        fn picture(&self, path: &str) -> stein::Result<(Vec<f64>, [usize; 2])> {
            NoFiles.picture(path)
        }
    }
    let taps = Taps(stored.numbers("blur_taps"));
    let inpaint = format!("kind = 'inpaint'\nmask = {{ kind = 'entries', known = {entries:?} }}");
    for (name, text) in [
        ("inpaint", inpaint.as_str()),
        ("pool", "kind = 'super_resolution'\nfactor = 2"),
        ("blur", "kind = 'blur'\nkernel = { kind = 'file', file = 'taps.npy' }"),
    ] {
        let operator = measurement(text).operator(COLOR, &taps).unwrap();
        let spectrum = operator.linear().unwrap().spectrum().unwrap();
        let y = stored.numbers(&format!("{name}.y"));
        for level in ["vp.level0", "vp.level1", "edm.level0", "edm.level1"] {
            let r_squared = fixture["values"][level]["r_squared"].as_f64().unwrap();
            let variance = fixture["sigma_y"].as_f64().unwrap().powi(2);
            let x0 = stored.numbers(&format!("{level}.x0hat"));
            let norms = stored.numbers(&format!("{level}.{name}.norm"));
            let directions = stored.numbers(&format!("{level}.{name}.pigdm_direction"));
            for (row, wanted) in norms.iter().enumerate() {
                let x = channels_last(&x0[768 * row..768 * (row + 1)], 3);
                let size = y.len() / 2;
                let y = channels_last(&y[size * row..size * (row + 1)], 3);
                // Stored masked pictures have 0 where nothing is known.
                let y = if name == "inpaint" { operator.apply(&y) } else { y };
                let residual = difference(&y, &operator.apply(&x));
                // The stored values are good to 1e-9.
                assert!((norm(&residual) / wanted - 1.0).abs() < 1e-9, "{level} {name}: {}", norm(&residual));
                let direction = spectrum.back(&residual, &|s| s / (r_squared * s * s + variance));
                let wanted = channels_last(&directions[768 * row..768 * (row + 1)], 3);
                let largest = wanted.iter().fold(0.0_f64, |largest, d| largest.max(d.abs()));
                let off = difference(&direction, &wanted).iter().fold(0.0_f64, |off, d| off.max(d.abs()));
                assert!(off < 1e-9 * largest, "{level} {name}: {off} of {largest}");
            }
        }
    }
}

#[test]
fn masks_keep_what_they_say() {
    let known = |text: &str, shape: &[usize]| {
        let numbers: Vec<f64> = (0..shape.iter().product::<usize>()).map(|i| i as f64).collect();
        operator(text, shape).apply(&numbers)
    };
    assert_eq!(known("kind = 'inpaint'\nknown = [4, 0, 3]", ROW), [0.0, 3.0, 4.0]);
    assert_eq!(known("kind = 'inpaint'\nknown = [1]", SERIES), [2.0, 3.0]);
    assert_eq!(known("kind = 'inpaint'\nmask = { kind = 'entries', known = [5, 2] }", SERIES), [2.0, 5.0]);
    let all_but =
        known("kind = 'inpaint'\nmask = { kind = 'box', height = 1, width = 2, top = 1, left = 0 }", &[2, 3, 1]);
    assert_eq!(all_but, [0.0, 1.0, 2.0, 5.0]);
    assert_eq!(known("kind = 'inpaint'\nmask = { kind = 'columns' }", &[2, 3, 1]), [0.0, 2.0, 3.0, 5.0]);
    // All channels of a pixel are known together, as many pixels as the part says, others with another seed.
    let random = |seed: u64| {
        known(&format!("kind = 'inpaint'\nmask = {{ kind = 'random', missing = 0.75, seed = {seed} }}"), COLOR)
    };
    assert_eq!(random(1).len(), 64 * 3);
    assert!(random(1).chunks(3).all(|pixel| pixel[0] % 3.0 == 0.0 && pixel[2] == pixel[0] + 2.0));
    assert!(random(1) == random(1) && random(1) != random(2));
    // What is shown of it, its pseudo-inverse, is the picture with nothing where nothing is known.
    let some = operator("kind = 'inpaint'\nknown = [1, 2]", &[4]);
    let back = some.linear().unwrap().spectrum().unwrap().back(&[5.0, 6.0], &|s| 1.0 / s);
    assert_eq!(back, [0.0, 5.0, 6.0, 0.0]);
}

#[test]
fn kernels_are_normalized_and_blur_is_the_sum_of_its_definition() {
    let points = |text: &str, shape: &[usize]| {
        let blur: Blur = toml::from_str(text).unwrap();
        blur.kernel.points(shape, &MadeUp).unwrap()
    };
    let gaussian = points("kernel = { kind = 'gaussian', std = 1.3 }", &[32, 32, 1]);
    assert_eq!(gaussian.size, [13, 13]);
    assert!((gaussian.values.iter().sum::<f64>() - 1.0).abs() < 1e-14);
    // A step from the middle is e^(−1/2σ²) of it; cut at more than four standard deviations, the variance is σ² to 1e-4 of it.
    let [taps, _] = gaussian.factors.unwrap();
    assert!((taps[7] / taps[6] - (-0.5_f64 / 1.69).exp()).abs() < 1e-14);
    let variance: f64 = taps.iter().enumerate().map(|(i, tap)| tap * (i as f64 - 6.0).powi(2)).sum();
    assert!((variance / 1.69 - 1.0).abs() < 1e-3, "{variance}");
    let motion = |seed: u64| points(&format!("kernel = {{ kind = 'motion', size = 21, seed = {seed} }}"), &[64, 64, 3]);
    for seed in 0..20 {
        let motion = motion(seed);
        assert!((motion.values.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert!(motion.values.iter().all(|value| *value >= 0.0));
        // The path is about the middle, to what is clamped at the border.
        let row: f64 = motion.values.iter().enumerate().map(|(at, value)| value * (at / 21) as f64).sum();
        assert!((row - 10.0).abs() < 0.5, "{row}");
    }
    assert_ne!(motion(0), motion(1));
    // y_n = Σ_k h_k x_{n−k}, with the middle of an even side at its second half, around the border or mirrored in it.
    let x = normal(31, 96);
    let kernel = points("kernel = { kind = 'file', file = 'kernel.npy' }", GRAY);
    for (boundary, around) in [("circular", true), ("reflect", false)] {
        let place = |at: i64, side: i64| match at {
            _ if around => at.rem_euclid(side),
            ..0 => -at,
            at if at >= side => 2 * (side - 1) - at,
            at => at,
        };
        let text = format!("kind = 'blur'\nboundary = '{boundary}'\nkernel = {{ kind = 'file', file = 'kernel.npy' }}");
        let blurred = operator(&text, GRAY).apply(&x);
        for (at, value) in blurred.iter().enumerate() {
            let mut wanted = 0.0;
            for (k, h) in kernel.values.iter().enumerate() {
                let row = place((at / 12) as i64 - (k / 4) as i64 + 1, 8);
                let column = place((at % 12) as i64 - (k % 4) as i64 + 2, 12);
                wanted += h * x[(row * 12 + column) as usize];
            }
            assert!((value - wanted).abs() < 1e-13, "{boundary} at {at}: {value} against {wanted}");
        }
    }
    // A kernel that is a product, mirrored: two small matrices and the padded convolution agree.
    #[derive(Debug)]
    struct Same(Vec<f64>);
    impl Files for Same {
        fn array(&self, _: &str) -> stein::Result<(Vec<f64>, Vec<usize>)> {
            Ok((self.0.clone(), vec![7, 7]))
        }

        fn picture(&self, path: &str) -> stein::Result<(Vec<f64>, [usize; 2])> {
            NoFiles.picture(path)
        }
    }
    let product = points("kernel = { kind = 'gaussian', std = 1.2, size = 7 }", GRAY);
    let of = |text: &str| {
        let blur: Blur = toml::from_str(&format!("boundary = 'reflect'\n{text}")).unwrap();
        blur.operator(GRAY, &Same(product.values.clone())).unwrap().apply(&x)
    };
    let separate = of("kernel = { kind = 'gaussian', std = 1.2, size = 7 }");
    assert!(error(&separate, &of("kernel = { kind = 'file', file = 'same.npy' }")) < 1e-14);
    assert_eq!(BlurKernel::default().points(GRAY, &NoFiles).unwrap().size, [7, 9]);
}

#[test]
fn reductions_have_the_known_weights() {
    // Away from the borders, the cubic with a = −1/2 at (1/4, 3/4, 5/4, 7/4), halved: 111, 29, −9 and −3 of 256.
    let half = operator("kind = 'super_resolution'\nfactor = 2\nfilter = 'bicubic'", &[16, 1]);
    let mut unit = vec![0.0; 8];
    unit[3] = 1.0;
    let weights: Vec<f64> = half.pull(&[0.0; 16], &unit).iter().map(|weight| weight * 256.0).collect();
    let mut wanted = vec![0.0; 16];
    wanted[3..11].copy_from_slice(&[-3.0, -9.0, 29.0, 111.0, 111.0, 29.0, -9.0, -3.0]);
    assert!(error(&weights, &wanted) < 1e-14, "{weights:?}");
    // What is flat stays what it is, and a slope one away from the borders.
    for (factor, filter) in [(4, "mean"), (4, "bicubic"), (3, "bicubic"), (2, "bicubic")] {
        let text = format!("kind = 'super_resolution'\nfactor = {factor}\nfilter = '{filter}'");
        let reduced = operator(&text, &[48, 1]);
        assert!(reduced.apply(&[0.3; 48]).iter().all(|y| (y - 0.3).abs() < 1e-14), "{text}");
        let y = reduced.apply(&(0..48).map(f64::from).collect::<Vec<f64>>());
        for (place, y) in y.iter().enumerate().take(y.len() - 2).skip(2) {
            let middle = (place as f64 + 0.5) * f64::from(factor) - 0.5;
            assert!((y - middle).abs() < 1e-12, "{text}: {y} at {place}");
        }
    }
    let mean = operator("kind = 'super_resolution'\nfactor = 2", &[2, 4, 1]);
    assert_eq!(mean.apply(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]), [3.5, 5.5]);
    assert_eq!(operator("kind = 'colorize'", &[1, 2, 3]).apply(&[0.3, 0.6, 0.9, 0.0, 0.0, 0.3]).len(), 2);
    let gray = operator("kind = 'colorize'\nweights = [0.299, 0.587, 0.114]", &[1, 1, 3]).apply(&[1.0, 0.5, 0.25]);
    assert!((gray[0] - 0.621).abs() < 1e-15, "{gray:?}");
}

#[test]
fn all_frequencies_together_are_an_isometry_and_some_are_those_of_the_definition() {
    for (text, shape) in [
        ("kind = 'mri'\nlines = 'all'", COLOR),
        ("kind = 'mri'\nlines = 'all'\ncoils = 4", GRAY),
        ("kind = 'mri'\nlines = 'all'\ncomplex = true", &[8, 12, 2]),
        ("kind = 'mri'\nacceleration = 1\ncoils = 2\ncomplex = true", &[9, 7, 2]),
    ] {
        let all = operator(text, shape);
        let x = normal(51, all.inputs());
        assert!((norm(&all.apply(&x)) / norm(&x) - 1.0).abs() < 1e-12, "{text}");
        assert!(error(&all.linear().unwrap().adjoint(&all.apply(&x)), &x) < 1e-12, "{text}");
    }
    // X_k = (HW)^−½ Σ x_n e^(−2πi (k − K)·(n − N)/(H, W)) with both origins in the middle, of odd and even sides.
    let (height, width) = (5, 6);
    let x = normal(52, height * width);
    let y = operator("kind = 'mri'\nlines = 'all'", &[height, width, 1]).apply(&x);
    for k in 0..height * width {
        let (mut re, mut im) = (0.0, 0.0);
        for (n, x) in x.iter().enumerate() {
            let turn = |k: usize, n: usize, side: usize| {
                (k as f64 - (side / 2) as f64) * (n as f64 - (side / 2) as f64) / side as f64
            };
            let angle =
                std::f64::consts::TAU * (turn(k / width, n / width, height) + turn(k % width, n % width, width));
            (re, im) = (re + x * angle.cos(), im - x * angle.sin());
        }
        let factor = ((height * width) as f64).sqrt();
        assert!((y[2 * k] - re / factor).abs() + (y[2 * k + 1] - im / factor).abs() < 1e-12, "{k}");
    }
    // The lines that are kept: one in `acceleration` in all, those in the middle among them.
    for lines in ["uniform", "equispaced", "gaussian"] {
        let of = measurement(&format!("kind = 'mri'\nlines = '{lines}'\nacceleration = 4\nseed = 9"));
        assert_eq!(of.shape(&[4, 100, 1], &MadeUp).unwrap(), [4, 25, 2], "{lines}");
        // A constant picture has frequency zero only, which is in the middle.
        let seen = of.operator(&[4, 100, 1], &MadeUp).unwrap().apply(&[1.0; 400]);
        assert!((norm(&seen) - 20.0).abs() < 1e-12, "{lines}");
    }
}

#[test]
fn rays_through_a_disk_are_as_long_as_its_chords() {
    // A disk of radius 20 pixels off the middle of 64 × 64, each pixel the part of it that is inside, by 16 × 16 points.
    let (size, radius, center) = (64, 20.0, [30.0, 34.5]);
    let inside = |x: f64, y: f64| f64::from((x - center[0]).hypot(y - center[1]) < radius);
    let disk: Vec<f64> = (0..size * size)
        .map(|at| {
            let (row, column) = ((at / size) as f64, (at % size) as f64);
            let points = (0..256).map(|p| ((p % 16) as f64 + 0.5, (p / 16) as f64 + 0.5));
            points.map(|(x, y)| inside(column + x / 16.0, size as f64 - row - y / 16.0)).sum::<f64>() / 256.0
        })
        .collect();
    let ct = measurement("kind = 'ct'\nangles = 12");
    let shape = [size, size, 1];
    let (angles, rays) = (12, ct.shape(&shape, &MadeUp).unwrap()[1]);
    assert_eq!(rays, 92);
    let y = ct.operator(&shape, &MadeUp).unwrap().apply(&disk);
    for angle in 0..angles {
        let theta = std::f64::consts::PI * angle as f64 / angles as f64;
        // The middle of the disk as a ray of this angle has it.
        let middle = (center[0] - 32.0) * theta.cos() + (center[1] - 32.0) * theta.sin();
        let own = &y[angle * rays..(angle + 1) * rays];
        let mut off = 0.0;
        for (ray, length) in own.iter().enumerate() {
            let distance = ray as f64 - 45.5 - middle;
            let chord = |radius: f64| 2.0 * (radius * radius - distance * distance).max(0.0).sqrt() / 64.0;
            // Pixels that are partly inside reach a diagonal to either side of the border.
            let (least, most) = (chord(radius - 2f64.sqrt()), chord(radius + 2f64.sqrt()));
            assert!((least - 1e-12..=most + 1e-12).contains(length), "{angle} {ray}: {length}");
            off += (length - chord(radius)).abs() / own.len() as f64;
        }
        // On average that is a small part of a pixel.
        assert!(off < 0.3 / 64.0, "{angle}: {off}");
        // All rays of an angle together have the area; slanted ones meet a pixel more or less than once.
        let area = own.iter().sum::<f64>() / 64.0;
        let wanted = std::f64::consts::PI * radius * radius / 4096.0;
        assert!((area / wanted - 1.0).abs() < 0.02, "{angle}: {area} against {wanted}");
    }
    // Upright rays are the sums of columns, level ones the sums of rows from below.
    let x = normal(61, 16);
    let y = operator("kind = 'ct'\nangles = 2\ndetectors = 4", &[4, 4, 1]).apply(&x);
    for line in 0..4 {
        let column: f64 = (0..4).map(|row| x[4 * row + line]).sum::<f64>() / 4.0;
        let row: f64 = x[4 * (3 - line)..4 * (4 - line)].iter().sum::<f64>() / 4.0;
        assert!((y[line] - column).abs() < 1e-12 && (y[4 + line] - row).abs() < 1e-12, "{line}");
    }
}

#[test]
fn magnitudes_limits_and_sums_are_those_of_their_formulas() {
    // DPS pads 256 to 384; Parseval: the intensities sum to the squares of the picture.
    let twice = measurement("kind = 'phase_retrieval'\nmagnitude = 'intensity'");
    assert_eq!(twice.shape(&[256, 256, 3], &MadeUp).unwrap(), [384, 384, 3]);
    let x = picture(71, 96);
    let y = operator("kind = 'phase_retrieval'\nmagnitude = 'intensity'", GRAY).apply(&x);
    assert!((y.iter().sum::<f64>() / dot(&x, &x) - 1.0).abs() < 1e-12);
    let amplitude = operator("kind = 'phase_retrieval'", GRAY).apply(&x);
    assert!(amplitude.iter().zip(&y).all(|(a, y)| (a * a - y).abs() < 1e-12));
    // Frequency zero in the middle of 12 × 18: the sum over √216.
    assert!((amplitude[6 * 18 + 9] - x.iter().sum::<f64>() / 216f64.sqrt()).abs() < 1e-12);
    // DAPS: clip(2x, −1, 1) of pictures in [−1, 1].
    let hdr = operator("kind = 'hdr'", COLOR);
    let x = picture(72, 768);
    for (x, y) in x.iter().zip(hdr.apply(&x)) {
        assert!((2.0 * y - 1.0 - (2.0 * (2.0 * x - 1.0)).clamp(-1.0, 1.0)).abs() < 1e-14);
    }
    assert_eq!(operator("kind = 'hdr'\ngain = 3\ncenter = 0", &[1, 2, 1]).apply(&[0.25, 0.5]), [0.75, 1.0]);
    assert_eq!(operator("kind = 'clip'", &[3]).apply(&[0.0, 0.5, 1.0]), [0.25, 0.5, 0.75]);
    // Rows of Walsh's matrix are orthonormal; dense ones keep the length of a sample on average: of m = 1024 squares of normal
    // numbers the mean is off by √(2/m) = 0.044, five of which are allowed.
    let walsh = operator("kind = 'compressed_sensing'\nrows = 'hadamard'", &[16, 16, 1]);
    let y = normal(73, walsh.outputs());
    assert!(error(&walsh.apply(&walsh.pull(&[0.0; 256], &y)), &y) < 1e-13);
    for rows in ["gaussian", "sign"] {
        let text = format!("kind = 'compressed_sensing'\nratio = 1\nrows = '{rows}'");
        let x = normal(74, 1024);
        let ratio = norm(&operator(&text, &[1024]).apply(&x)) / norm(&x);
        assert!((ratio * ratio - 1.0).abs() < 0.22, "{rows}: {ratio}");
    }
}

/// The cosine transform of an 8 × 8 block by its definition.
fn cosines(block: &[f64]) -> Vec<f64> {
    let size = |k: usize| if k == 0 { 0.125f64.sqrt() } else { 0.5 };
    let wave = |k: usize, n: usize| size(k) * (std::f64::consts::PI * (2 * n + 1) as f64 * k as f64 / 16.0).cos();
    let at = |k: usize| (0..64).map(|n| wave(k / 8, n / 8) * wave(k % 8, n % 8) * block[n]).sum();
    (0..64).map(at).collect()
}

#[test]
fn jpeg_is_half_a_step_off() {
    // Luma steps at quality 50 are those of annex K; a corner of them is known.
    let x = picture(81, 64);
    let y = operator("kind = 'jpeg'\nquality = 50", &[8, 8, 1]).apply(&x);
    let off = difference(&cosines(&y), &cosines(&x));
    let largest = [16.0, 11.0, 10.0, 16.0, 24.0, 40.0, 51.0, 61.0];
    for (k, off) in off.iter().enumerate() {
        let step = if k < 8 { largest[k] } else { 121.0 };
        assert!(off.abs() <= 0.5 * step / 255.0 + 1e-12, "{k}: {off}");
    }
    let level = cosines(&y)[1] * 255.0 / 11.0;
    assert!((level - level.round()).abs() < 1e-9, "{level}");
}

#[test]
fn jpeg_is_what_another_encoder_and_decoder_make_of_it() {
    let shape = [24, 16, 3];
    let colors: Vec<u8> = (0..24 * 16 * 3)
        .map(|at| {
            let (row, column, channel) = ((at / 48) as f64, (at / 3 % 16) as f64, (at % 3) as f64);
            let wave = (row / (3.0 + channel)).sin() + (column / (2.0 + 0.7 * channel)).cos();
            (128.0 + 40.0 * wave).round() as u8
        })
        .collect();
    let grays: Vec<u8> = colors.chunks(3).flat_map(|pixel| [pixel[0]; 3]).collect();
    for (pixels, quality, most) in
        [(&colors, 10, 0.8), (&colors, 25, 0.8), (&grays, 10, 0.4), (&grays, 50, 0.4), (&grays, 90, 0.4)]
    {
        let mut file = Vec::new();
        let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut file, quality);
        encoder.encode(pixels, 16, 24, image::ExtendedColorType::Rgb8).unwrap();
        let theirs = image::load_from_memory_with_format(&file, image::ImageFormat::Jpeg).unwrap().to_rgb8();
        let x: Vec<f64> = pixels.iter().map(|p| f64::from(*p) / 255.0).collect();
        let ours = operator(&format!("kind = 'jpeg'\nquality = {quality}"), &shape).apply(&x);
        let mut squares = [0.0; 6];
        for (at, (ours, theirs)) in ours.iter().zip(theirs.as_raw()).enumerate() {
            squares[at / 48 / 8 * 2 + at / 3 % 16 / 8] += (255.0 * ours - f64::from(*theirs)).powi(2) / 192.0;
        }
        squares.sort_by(f64::total_cmp);
        // They round pixels to whole levels, a standard deviation of 0.29, and those of luma and chroma before that, which become up to
        // 1.8 times as much. A coefficient in the middle of two steps may so be rounded the other way: the middle one of six blocks is
        // looked at. With the table of luma for chroma all are off by 4 to 13 levels.
        let off = squares[3].sqrt();
        assert!(off < most, "quality {quality}: {off} gray levels");
    }
}

#[test]
fn bad_input_is_refused_in_a_sentence_before_work() {
    for (text, shape, part) in [
        (
            "kind = 'inpaint'\nmask = { kind = 'file', file = 'mask.png' }",
            GRAY,
            "has the shape [16, 16], and the samples have [8, 12]",
        ),
        ("kind = 'inpaint'\nmask = { kind = 'file', file = 'none.png' }", GRAY, "none.png"),
        ("kind = 'inpaint'\nmask = { kind = 'file', file = 'black.png' }", COLOR, "nothing is known"),
        ("kind = 'inpaint'\nmask = { kind = 'random', missing = 1.0 }", GRAY, "below 1"),
        ("kind = 'inpaint'\nmask = { kind = 'box', height = 9 }", GRAY, "at most 8"),
        ("kind = 'inpaint'\nmask = { kind = 'columns' }", ROW, "for pictures"),
        ("kind = 'inpaint'\nknown = [7]", ROW, "0 to 6"),
        ("kind = 'inpaint'\nknown = [1, 1]", ROW, "twice"),
        ("kind = 'inpaint'\nknown = [1]", COLOR, "a mask"),
        ("kind = 'inpaint'\nknown = [1]\nmask = { kind = 'rows' }", ROW, "not both"),
        ("kind = 'super_resolution'\nfactor = 5", COLOR, "does not divide the picture's 16 x 16 pixels"),
        ("kind = 'super_resolution'\nfactor = 5", SERIES, "does not divide the length 12"),
        ("kind = 'super_resolution'", ROW, "pictures and series"),
        ("kind = 'blur'\nkernel = { kind = 'file', file = 'large.npy' }", GRAY, "larger than the picture of 8 x 12"),
        ("kind = 'blur'\nkernel = { kind = 'uniform', size = 9 }", GRAY, "larger than the picture"),
        ("kind = 'blur'\nkernel = { kind = 'motion', size = 9 }", GRAY, "larger than the picture"),
        ("kind = 'blur'\nkernel = { kind = 'gaussian', std = 0 }", GRAY, "above 0"),
        ("kind = 'blur'\nkernel = { kind = 'file', file = 'black.png' }", COLOR, "is black"),
        ("kind = 'colorize'", GRAY, "one channel"),
        ("kind = 'colorize'\nweights = [1]", COLOR, "one for each channel"),
        ("kind = 'compressed_sensing'\nratio = 0", COLOR, "above 0"),
        ("kind = 'compressed_sensing'\nrows = 'hadamard'", GRAY, "power of two"),
        ("kind = 'mri'\nmask = 'mask.npy'", COLOR, "has the shape [8, 12]"),
        ("kind = 'mri'\nmaps = 'maps.npy'", COLOR, "need [coils, 16, 16, 2]"),
        ("kind = 'mri'\ncomplex = true", COLOR, "two channels"),
        ("kind = 'mri'\ncenter_fraction = 0.5", COLOR, "lower one of them"),
        ("kind = 'mri'\nacceleration = 17", COLOR, "at most 16"),
        ("kind = 'ct'\nangles = 0", COLOR, "at least 1"),
        ("kind = 'ct'", ROW, "is of pictures"),
        ("kind = 'phase_retrieval'\noversampling = -1", COLOR, "at least 0"),
        ("kind = 'clip'\nlow = 1", ROW, "must be below"),
        ("kind = 'quantize'\nlevels = 1", ROW, "at least 2"),
        ("kind = 'jpeg'\nquality = 0", COLOR, "at least 1"),
        ("kind = 'hdr'\ngain = 0", COLOR, "above 0"),
    ] {
        let refused = measurement(text).operator(shape, &MadeUp).unwrap_err().to_string();
        assert!(refused.contains(part) && !refused.contains('\n'), "{text}: {refused}");
    }
}
