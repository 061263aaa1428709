/* scale * mish(group_norm(x)) + shift over [T, B, C] in single precision, with its derivatives, for CPUs.
 *
 * The arithmetic is that of norm_mish.py beside this file, which is the documentation and, where no C compiler was there
 * at installation, the implementation; tests/models holds both together. Rows of the batch are independent and shared
 * out among threads, so the answer does not depend on their number. Arrays come as addresses with element strides of
 * time and batch; channels are next to each other. Nothing here reads Python objects but numbers.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>

#define MOST_CHANNELS 2048
#define SERIAL_BELOW 16384 /* numbers; sharing fewer out costs more than it saves */

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__gnu_linux__)
#define FOR_EACH_CPU __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define FOR_EACH_CPU
#endif

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

typedef struct {
    Py_ssize_t time, batch;
} Strides;

typedef struct {
    const float *x, *gradient, *weight, *bias, *scale, *shift;
    float *out, *mean, *inverse, *at_bias, *at_weight, *at_scale, *at_shift;
    Strides from, to, of_gradient;
    Py_ssize_t steps, rows, channels, groups, film;
    float eps;
} Work;

/* e^y for y up to 20, to one unit in the last place or so: 2^n * e^r with |r| <= ln 2 / 2. Not a number stays so. */
INLINE float exponential(float y) {
    y = y < -87.0f ? -87.0f : y;
    y = y > 20.0f ? 20.0f : y;
    float n = (y * 1.44269504f + 12582912.0f) - 12582912.0f; /* the nearest integer */
    float r = (y - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    union {
        int32_t bits;
        float number;
    } power = {((int32_t)n + 127) << 23};
    return p * power.number;
}

/* Sums over each group divided by count, from sums [C] to pooled [groups]. */
INLINE void pool(const float *sums, float *pooled, Py_ssize_t channels, Py_ssize_t groups, float count) {
    Py_ssize_t size = channels / groups;
    for (Py_ssize_t g = 0; g < groups; g++) {
        float total = 0.0f;
#pragma omp simd reduction(+ : total)
        for (Py_ssize_t c = g * size; c < (g + 1) * size; c++) total += sums[c];
        pooled[g] = total / count;
    }
}

INLINE void spread(const float *pooled, float *all, Py_ssize_t channels, Py_ssize_t groups) {
    Py_ssize_t size = channels / groups;
    for (Py_ssize_t g = 0; g < groups; g++)
        for (Py_ssize_t c = g * size; c < (g + 1) * size; c++) all[c] = pooled[g];
}

FOR_EACH_CPU void forward_rows(const Work *w, Py_ssize_t first, Py_ssize_t last) {
    const Py_ssize_t T = w->steps, C = w->channels, G = w->groups;
    const float count = (float)(T * (C / G));
    const float *restrict weight = w->weight, *restrict bias = w->bias;
    float sums[MOST_CHANNELS], mean[MOST_CHANNELS], factor[MOST_CHANNELS];
    for (Py_ssize_t b = first; b < last; b++) {
        float *restrict means = w->mean + b * G, *restrict inverses = w->inverse + b * G;
        const float *rows = w->x + b * w->from.batch;
        for (Py_ssize_t c = 0; c < C; c++) sums[c] = 0.0f;
        for (Py_ssize_t t = 0; t < T; t++) {
            const float *restrict x = rows + t * w->from.time;
            for (Py_ssize_t c = 0; c < C; c++) sums[c] += x[c];
        }
        pool(sums, means, C, G, count);
        spread(means, mean, C, G);
        for (Py_ssize_t c = 0; c < C; c++) sums[c] = 0.0f;
        for (Py_ssize_t t = 0; t < T; t++) {
            const float *restrict x = rows + t * w->from.time;
            for (Py_ssize_t c = 0; c < C; c++) sums[c] += (x[c] - mean[c]) * (x[c] - mean[c]);
        }
        pool(sums, inverses, C, G, count);
        for (Py_ssize_t g = 0; g < G; g++) inverses[g] = 1.0f / sqrtf(inverses[g] + w->eps);
        spread(inverses, factor, C, G);
        for (Py_ssize_t c = 0; c < C; c++) factor[c] *= weight[c];
        const float *restrict scale = w->scale ? w->scale + b * w->film : NULL;
        const float *restrict shift = w->scale ? w->shift + b * w->film : NULL;
        for (Py_ssize_t t = 0; t < T; t++) {
            const float *restrict x = rows + t * w->from.time;
            float *restrict out = w->out + b * w->to.batch + t * w->to.time;
#pragma omp simd
            for (Py_ssize_t c = 0; c < C; c++) {
                float y = (x[c] - mean[c]) * factor[c] + bias[c];
                float q = 1.0f + exponential(y);
                out[c] = y * (1.0f - 2.0f / (q * q + 1.0f));
            }
            if (scale)
                for (Py_ssize_t c = 0; c < C; c++) out[c] = out[c] * scale[c] + shift[c];
        }
    }
}

FOR_EACH_CPU void backward_rows(const Work *w, Py_ssize_t first, Py_ssize_t last) {
    const Py_ssize_t T = w->steps, C = w->channels, G = w->groups;
    const float count = (float)(T * (C / G));
    const float *restrict weight = w->weight, *restrict bias = w->bias;
    float mean[MOST_CHANNELS], inverse[MOST_CHANNELS], factor[MOST_CHANNELS], scale[MOST_CHANNELS];
    float at_scale[MOST_CHANNELS], at_shift[MOST_CHANNELS], common[MOST_CHANNELS], lean[MOST_CHANNELS];
    for (Py_ssize_t b = first; b < last; b++) {
        float *restrict at_bias = w->at_bias + b * C, *restrict at_weight = w->at_weight + b * C;
        spread(w->mean + b * G, mean, C, G);
        spread(w->inverse + b * G, inverse, C, G);
#pragma omp simd
        for (Py_ssize_t c = 0; c < C; c++) {
            factor[c] = inverse[c] * weight[c];
            scale[c] = w->scale ? w->scale[b * w->film + c] : 1.0f;
            at_bias[c] = at_weight[c] = at_scale[c] = at_shift[c] = 0.0f;
        }
        for (Py_ssize_t t = 0; t < T; t++) {
            const float *restrict x = w->x + b * w->from.batch + t * w->from.time;
            const float *restrict gradient = w->gradient + b * w->of_gradient.batch + t * w->of_gradient.time;
            float *restrict out = w->out + b * w->to.batch + t * w->to.time;
#pragma omp simd
            for (Py_ssize_t c = 0; c < C; c++) {
                float centred = x[c] - mean[c];
                float y = centred * factor[c] + bias[c];
                float q = 1.0f + exponential(y);
                float r = 1.0f / (q * q + 1.0f);
                float mish = 1.0f - 2.0f * r, u = q * r;
                at_shift[c] += gradient[c];
                at_scale[c] += y * mish * gradient[c];
                float at_y = (mish + 4.0f * y * u * (u - r)) * gradient[c] * scale[c];
                at_bias[c] += at_y;
                at_weight[c] += at_y * centred;
                out[c] = at_y;
            }
        }
        if (w->scale)
            for (Py_ssize_t c = 0; c < C; c++) {
                w->at_scale[b * C + c] = at_scale[c];
                w->at_shift[b * C + c] = at_shift[c];
            }
        float pooled[MOST_CHANNELS];
        for (Py_ssize_t c = 0; c < C; c++) at_shift[c] = at_bias[c] * factor[c];
        pool(at_shift, pooled, C, G, count);
        spread(pooled, common, C, G);
        for (Py_ssize_t c = 0; c < C; c++) at_scale[c] = at_weight[c] * factor[c];
        pool(at_scale, pooled, C, G, count);
        spread(pooled, lean, C, G);
        for (Py_ssize_t c = 0; c < C; c++) {
            lean[c] *= inverse[c] * inverse[c];
            at_weight[c] *= inverse[c];
        }
        for (Py_ssize_t t = 0; t < T; t++) {
            const float *restrict x = w->x + b * w->from.batch + t * w->from.time;
            float *restrict out = w->out + b * w->to.batch + t * w->to.time;
#pragma omp simd
            for (Py_ssize_t c = 0; c < C; c++) out[c] = out[c] * factor[c] - common[c] - (x[c] - mean[c]) * lean[c];
        }
    }
}

static void share_out(const Work *w, void (*rows)(const Work *, Py_ssize_t, Py_ssize_t), int threads) {
    if (w->steps * w->rows * w->channels < SERIAL_BELOW || threads < 2) {
        rows(w, 0, w->rows);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int part = 0; part < threads; part++) rows(w, w->rows * part / threads, w->rows * (part + 1) / threads);
}

static int sizes_fit(const Work *w) {
    if (w->steps > 0 && w->rows >= 0 && w->groups > 0 && w->channels > 0 && w->channels <= MOST_CHANNELS && w->channels % w->groups == 0)
        return 1;
    PyErr_Format(PyExc_ValueError, "sizes do not fit: T=%zd B=%zd C=%zd (at most %d) groups=%zd", w->steps, w->rows, w->channels,
                 MOST_CHANNELS, w->groups);
    return 0;
}

static PyObject *forward(PyObject *module, PyObject *args) {
    Work w = {0};
    int threads;
    unsigned long long x, out, mean, inverse, weight, bias, scale, shift;
    if (!PyArg_ParseTuple(args, "K(nn)K(nn)KKKKKKnnnnnfi", &x, &w.from.time, &w.from.batch, &out, &w.to.time, &w.to.batch, &mean,
                          &inverse, &weight, &bias, &scale, &shift, &w.film, &w.steps, &w.rows, &w.channels, &w.groups, &w.eps, &threads))
        return NULL;
    if (!sizes_fit(&w)) return NULL;
    w.x = (const float *)(uintptr_t)x, w.out = (float *)(uintptr_t)out;
    w.mean = (float *)(uintptr_t)mean, w.inverse = (float *)(uintptr_t)inverse;
    w.weight = (const float *)(uintptr_t)weight, w.bias = (const float *)(uintptr_t)bias;
    w.scale = (const float *)(uintptr_t)scale, w.shift = (const float *)(uintptr_t)shift;
    Py_BEGIN_ALLOW_THREADS
    share_out(&w, forward_rows, threads);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *backward(PyObject *module, PyObject *args) {
    Work w = {0};
    int threads;
    unsigned long long x, gradient, out, mean, inverse, weight, bias, scale, at_bias, at_weight, at_scale, at_shift;
    if (!PyArg_ParseTuple(args, "K(nn)K(nn)K(nn)KKKKKKKKKnnnnni", &x, &w.from.time, &w.from.batch, &gradient, &w.of_gradient.time,
                          &w.of_gradient.batch, &out, &w.to.time, &w.to.batch, &mean, &inverse, &weight, &bias, &scale, &at_bias,
                          &at_weight, &at_scale, &at_shift, &w.film, &w.steps, &w.rows, &w.channels, &w.groups, &threads))
        return NULL;
    if (!sizes_fit(&w)) return NULL;
    w.x = (const float *)(uintptr_t)x, w.gradient = (const float *)(uintptr_t)gradient, w.out = (float *)(uintptr_t)out;
    w.mean = (float *)(uintptr_t)mean, w.inverse = (float *)(uintptr_t)inverse;
    w.weight = (const float *)(uintptr_t)weight, w.bias = (const float *)(uintptr_t)bias, w.scale = (const float *)(uintptr_t)scale;
    w.at_bias = (float *)(uintptr_t)at_bias, w.at_weight = (float *)(uintptr_t)at_weight;
    w.at_scale = (float *)(uintptr_t)at_scale, w.at_shift = (float *)(uintptr_t)at_shift;
    Py_BEGIN_ALLOW_THREADS
    share_out(&w, backward_rows, threads);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"forward", forward, METH_VARARGS, "forward(x, (time, batch), out, (time, batch), mean, inverse, weight, bias, scale, shift, film, T, B, C, groups, eps, threads)"},
    {"backward", backward, METH_VARARGS, "backward(x, (time, batch), gradient, (time, batch), out, (time, batch), mean, inverse, weight, bias, scale, at_bias, at_weight, at_scale, at_shift, film, T, B, C, groups, threads)"},
    {NULL, NULL, 0, NULL}};

static PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "_norm_mish", .m_doc = "Group norm, Mish and FiLM in one pass.", .m_size = -1, .m_methods = functions};

PyMODINIT_FUNC PyInit__norm_mish(void) {
    PyObject *made = PyModule_Create(&module);
    if (made && PyModule_AddIntConstant(made, "MOST_CHANNELS", MOST_CHANNELS) < 0) {
        Py_DECREF(made);
        return NULL;
    }
    return made;
}
