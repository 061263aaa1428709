/* The scalar work of a control tick: limits of the channels, workspace, inverse kinematics, reference path.
 *
 * Every function here repeats one of the Python modules beside it, in the same order of operations: braking.py, channel.py,
 * workspace.py, kinematics.py, curve.py and the checks of schedule.py. Those are the documentation and, where no C compiler
 * was there at installation, the implementation; tests/control holds both together. Plain doubles, no numpy headers:
 * arrays come as contiguous buffers.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define MOST_JOINTS 64
#define MOST_ACTIONS 128
#define MAX_TICKS 1000000

/* ------------------------------------------------------------------------------------------------------- buffers */

static int doubles(PyObject *object, Py_buffer *view, Py_ssize_t count, int writable) {
    if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0)) < 0) return -1;
    if (view->itemsize != 8 || !view->format || strcmp(view->format, "d") != 0 || (count >= 0 && view->len != 8 * count)) {
        PyErr_Format(PyExc_ValueError, "wanted %zd contiguous float64, got %zd bytes of '%s'", count, view->len,
                     view->format ? view->format : "?");
        PyBuffer_Release(view);
        return -1;
    }
    return 0;
}

static int read_doubles(PyObject *object, double *out, Py_ssize_t count) {
    Py_buffer view;
    if (doubles(object, &view, count, 0) < 0) return -1;
    memcpy(out, view.buf, 8 * count);
    PyBuffer_Release(&view);
    return 0;
}

static int write_doubles(PyObject *object, const double *from, Py_ssize_t count) {
    Py_buffer view;
    if (doubles(object, &view, count, 1) < 0) return -1;
    memcpy(view.buf, from, 8 * count);
    PyBuffer_Release(&view);
    return 0;
}

/* The object itself where it is contiguous float64, else its numbers as such an array. */
static PyObject *contiguous(PyObject *object) {
    Py_buffer view;
    if (PyObject_GetBuffer(object, &view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) == 0) {
        int good = view.itemsize == 8 && view.format && strcmp(view.format, "d") == 0;
        PyBuffer_Release(&view);
        if (good) return Py_NewRef(object);
    } else PyErr_Clear();
    PyObject *numpy = PyImport_ImportModule("numpy");
    PyObject *numbers = numpy ? PyObject_CallMethod(numpy, "ascontiguousarray", "Os", object, "d") : NULL;
    Py_XDECREF(numpy);
    return numbers;
}

/* A sequence of integers -> array; returns their number, -1 on error. */
static int read_indices(PyObject *object, int *out, int most, int bound) {
    PyObject *fast = PySequence_Fast(object, "wanted a sequence of integers");
    if (!fast) return -1;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(fast);
    if (count > most) {
        Py_DECREF(fast);
        PyErr_Format(PyExc_ValueError, "%zd indices, at most %d", count, most);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        long value = PyLong_AsLong(PySequence_Fast_GET_ITEM(fast, i));
        if (value < 0 || value >= bound) {
            Py_DECREF(fast);
            if (!PyErr_Occurred()) PyErr_Format(PyExc_ValueError, "index %ld out of range %d", value, bound);
            return -1;
        }
        out[i] = (int)value;
    }
    Py_DECREF(fast);
    return (int)count;
}

/* ------------------------------------------------------------------------------------------------------- braking */

static double ramp_rest(double x, double J) {
    double n = trunc(x / J);
    return n * x - 0.5 * J * n * (n + 1);
}

static double ramp_inverse(double v, double J) {
    double n = trunc(0.5 * (sqrt(1.0 + 8.0 * v / J) - 1.0));
    return (v + 0.5 * J * n * (n + 1)) / (n + 1);
}

static double brake(double v, double a, double A, double J) {
    double wish;
    if (v > 0) {
        double x = ramp_inverse(v, J);
        wish = -(A < x ? A : x);
    } else if (v < 0) {
        double x = ramp_inverse(-v, J);
        wish = A < x ? A : x;
    } else {
        wish = 0.0;
    }
    if (wish < a - J) return a - J;
    if (wish > a + J) return a + J;
    return wish;
}

static void brake_extent(double v, double a, double A, double J, double *low_out, double *high_out, double *final_out) {
    double low = 0.0, high = 0.0, here = 0.0, ramp = A + ramp_rest(A, J);
    for (long guard = 0; (v != 0.0 || a != 0.0) && guard < MAX_TICKS; guard++) {
        if ((a > J && v >= 0.0) || (a < -J && v <= 0.0)) {
            double n = trunc(fabs(a) / J), fall = a > 0 ? J : -J;
            here += n * v + 0.5 * n * (n + 1) * (a - fall * (n + 2) / 3.0);
            v += n * a - 0.5 * fall * n * (n + 1);
            a -= n * fall;
        } else if (a == -A && v > ramp + A) {
            double n = trunc((v - ramp) / A);
            here += n * v - 0.5 * A * n * (n + 1);
            v -= n * A;
        } else if (a == A && v < -ramp - A) {
            double n = trunc((-v - ramp) / A);
            here += n * v + 0.5 * A * n * (n + 1);
            v += n * A;
        } else {
            double x = ramp_inverse(fabs(v), J), wish = v > 0 ? -x : x;
            if (x <= A && a - J <= wish && wish <= a + J) {
                double n = trunc(x / J);
                double rest = fabs(v) - x + 0.5 * n * (n - 1) * (x - J * (n + 1) * 2.0 / 3.0);
                here += v > 0 ? rest : -rest;
                *low_out = here < low ? here : low;
                *high_out = here > high ? here : high;
                *final_out = here;
                return;
            }
            a = brake(v, a, A, J);
            v += a;
            here += v;
        }
        if (here > high) high = here;
        else if (here < low) low = here;
    }
    *low_out = low, *high_out = high, *final_out = here;
}

static double reach_bound(double v, double a, double A, double J) {
    double ticks = 0;
    if (a > 0) {
        ticks = trunc(a / J) + 1;
        v += ramp_rest(a, J);
    }
    if (v <= 0) return 0.0;
    return v * (ticks + 2.0 + 0.5 * v / A + 0.5 * A / J);
}

static double offset_at(double x, double error, double v, double w, double A, double J) {
    double low, high, final;
    brake_extent(v + x - w, x, A, J, &low, &high, &final);
    return error + v + x + final;
}

static double toward(double error, double v, double a, double w, double A, double J, double lowest, double highest,
                     double tolerance) {
    double guess = brake(v - w, a, A, J);
    if (guess < lowest) guess = lowest;
    if (guess > highest) guess = highest;
    double f_guess = offset_at(guess, error, v, w, A, J);
    double left, f_left, right, f_right;
    if (fabs(f_guess) <= tolerance) return guess;
    if (f_guess < 0) {
        left = guess, f_left = f_guess, right = highest, f_right = offset_at(highest, error, v, w, A, J);
        if (f_right <= 0) return highest;
    } else {
        left = lowest, f_left = offset_at(lowest, error, v, w, A, J), right = guess, f_right = f_guess;
        if (f_left >= 0) return lowest;
    }
    int side = 0;
    for (int i = 0; i < 40; i++) {
        double x = (left * f_right - right * f_left) / (f_right - f_left);
        double f = offset_at(x, error, v, w, A, J);
        if (fabs(f) <= tolerance) return x;
        if (f < 0) {
            left = x, f_left = f;
            if (side < 0) f_right *= 0.5;
            side = -1;
        } else {
            right = x, f_right = f;
            if (side > 0) f_left *= 0.5;
            side = 1;
        }
    }
    return left;
}

/* ------------------------------------------------------------------------------------------------------- channel */

enum { POSITION = 2, VELOCITY = 4, ACCELERATION = 8, JERK = 16, WORKSPACE = 32 };

typedef struct {
    double lower, upper, low, high, V, A, J, tolerance;
    double p, v, a, request, rate, rate_before, travel;
    int passes;
} Channel;

static int keeps_velocity(const Channel *c, double v, double a) {
    if (a > 0) return v + ramp_rest(a, c->J) <= c->V;
    return v - ramp_rest(-a, c->J) >= -c->V;
}

static int keeps_position(Channel *c, double p, double v, double a) {
    double up = reach_bound(v, a, c->A, c->J), down = reach_bound(-v, -a, c->A, c->J);
    c->travel = up > down ? up : down;
    if (p + up <= c->high && p - down >= c->low) return 1;
    double low, high, final;
    brake_extent(v, a, c->A, c->J, &low, &high, &final);
    c->travel = -low > high ? -low : high;
    return p + high <= c->high && p + low >= c->low;
}

static int channel_reset(Channel *c, double p, double v, double a) {
    c->p = p, c->v = v, c->a = a;
    c->low = c->p < c->lower ? c->p : c->lower;
    c->high = c->p > c->upper ? c->p : c->upper;
    c->request = c->p;
    c->rate = c->rate_before = c->travel = 0.0;
    c->passes = 0;
    int within = fabs(c->v) <= c->V && fabs(c->a) <= c->A;
    return within && keeps_velocity(c, v, a) && keeps_position(c, p, v, a);
}

static int viable(Channel *c, double x) {
    double v = c->v + x;
    return keeps_velocity(c, v, x) && keeps_position(c, c->p + v, v, x);
}

static int can_stay(const Channel *c, double v, double a) {
    double rates[2] = {c->rate, 2.0 * c->rate - c->rate_before};
    for (int i = 0; i < 2; i++) {
        double following = rates[i] - v;
        if (-c->A <= following && following <= c->A && -c->J <= following - a && following - a <= c->J) return 1;
    }
    return 0;
}

static double chase(Channel *c, double request) {
    double v = c->v, a = c->a, A = c->A, J = c->J;
    double up = ramp_inverse(c->V - v > 0.0 ? c->V - v : 0.0, J), down = -ramp_inverse(c->V + v > 0.0 ? c->V + v : 0.0, J);
    double highest = A < a + J ? A : a + J, lowest = -A > a - J ? -A : a - J;
    if (up < highest) highest = up;
    if (down > lowest) lowest = down;
    double rate = c->rate;
    if (rate < -c->V) rate = -c->V;
    if (rate > c->V) rate = c->V;
    double x = toward(c->p - request, v, a, rate, A, J, lowest, highest, c->tolerance);
    if (viable(c, x)) return x;
    double safe = brake(c->v, c->a, A, J), wish = x;
    for (int i = 0; i < 8; i++) {
        x = 0.5 * (safe + wish);
        if (viable(c, x)) safe = x;
        else wish = x;
    }
    viable(c, safe);
    return safe;
}

static double propose(Channel *c, double request, int *bits_out) {
    int bits = 0, met = 0;
    if (request < c->lower) request = c->lower, bits = POSITION;
    else if (request > c->upper) request = c->upper, bits = POSITION;
    int locked = c->request == c->p;
    c->rate_before = c->rate;
    c->rate = request - c->request;
    c->request = request;
    double v = request - c->p, a = v - c->v;
    if (!(-c->V <= v && v <= c->V)) met |= VELOCITY;
    if (!(-c->A <= a && a <= c->A)) met |= ACCELERATION;
    if (!(-c->J <= a - c->a && a - c->a <= c->J)) met |= JERK;
    if (!met) {
        if (!keeps_velocity(c, v, a)) met = VELOCITY;
        else if (!(locked || can_stay(c, v, a))) met = JERK;
        else if (!keeps_position(c, request, v, a)) met = POSITION;
        else {
            c->passes = 1;
            *bits_out = bits;
            return a;
        }
    }
    c->passes = 0;
    *bits_out = bits | met;
    return chase(c, request);
}

static void after(const Channel *c, double x, double *p, double *v, double *a) {
    if (c->passes && x == c->request - c->p - c->v) {
        *v = c->request - c->p, *p = c->request, *a = x;
        return;
    }
    double speed = c->v + x, position = c->p + speed;
    if (position < c->low) position = c->low;
    if (position > c->high) position = c->high;
    *p = position, *v = speed, *a = x;
}

static void commit(Channel *c, double x) {
    double p, v, a;
    after(c, x, &p, &v, &a);
    c->p = p, c->v = v, c->a = a;
    if (c->low < c->lower || c->high > c->upper) {
        double low = c->low, high = c->high;
        c->low = c->lower, c->high = c->upper;
        if (!(c->low <= c->p && c->p <= c->high && keeps_position(c, c->p, c->v, c->a))) c->low = low, c->high = high;
    }
}

static void commit_braking(Channel *c) {
    commit(c, brake(c->v, c->a, c->A, c->J));
    c->request = c->p;
    c->rate = c->rate_before = 0.0;
    c->passes = 0;
}

/* ---------------------------------------------------------------------------------------------------------- chain */

typedef struct { double r[9], t[3]; } Pose;

typedef struct {
    PyObject_HEAD
    int n;
    Pose constant[MOST_JOINTS], cosine[MOST_JOINTS], sine[MOST_JOINTS], tcp;
    double axis[MOST_JOINTS][3], lower[MOST_JOINTS], upper[MOST_JOINTS], home[MOST_JOINTS];
} Chain;

static void multiply(const Pose *a, const Pose *b, Pose *out) {
    for (int i = 0; i < 3; i++) {
        const double *row = a->r + 3 * i;
        for (int j = 0; j < 3; j++) out->r[3 * i + j] = row[0] * b->r[j] + row[1] * b->r[3 + j] + row[2] * b->r[6 + j];
        out->t[i] = row[0] * b->t[0] + row[1] * b->t[1] + row[2] * b->t[2] + a->t[i];
    }
}

static void link_pose(const Chain *chain, int i, double q, Pose *out) {
    double c = cos(q), s = sin(q);
    const Pose *m0 = &chain->constant[i], *m1 = &chain->cosine[i], *m2 = &chain->sine[i];
    for (int k = 0; k < 9; k++) out->r[k] = m0->r[k] + c * m1->r[k] + s * m2->r[k];
    for (int k = 0; k < 3; k++) out->t[k] = m0->t[k] + c * m1->t[k] + s * m2->t[k];
}

static void chain_forward(const Chain *chain, const double *q, Pose *out, Pose *frames) {
    Pose pose, link, next;
    link_pose(chain, 0, q[0], &pose);
    if (frames) frames[0] = pose;
    for (int i = 1; i < chain->n; i++) {
        link_pose(chain, i, q[i], &link);
        multiply(&pose, &link, &next);
        pose = next;
        if (frames) frames[i] = pose;
    }
    multiply(&pose, &chain->tcp, out);
}

static void half_turn(const double *m, double *out) {
    /* rotation vector of a matrix near half a turn, by its quaternion's largest component */
    double w, x, y, z;
    int k = m[0] > m[4] ? (m[0] > m[8] ? 0 : 2) : (m[4] > m[8] ? 1 : 2);
    int i = (k + 1) % 3, j = (k + 2) % 3;
    double s = sqrt(fmax(1.0 + m[4 * k] - m[4 * i] - m[4 * j], 0.0)) * 2.0, v[3];
    v[k] = 0.25 * s;
    v[i] = (m[3 * k + i] + m[3 * i + k]) / s;
    v[j] = (m[3 * k + j] + m[3 * j + k]) / s;
    w = (m[3 * j + i] - m[3 * i + j]) / s;
    x = v[0], y = v[1], z = v[2];
    if (w < 0) w = -w, x = -x, y = -y, z = -z;
    double norm = sqrt(x * x + y * y + z * z), angle = 2.0 * atan2(norm, w), scale = norm > 1e-12 ? angle / norm : 2.0;
    out[0] = x * scale, out[1] = y * scale, out[2] = z * scale;
}

static void rotation_error(const double *target, const double *current, double *out) {
    double m[9];
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++)
            m[3 * i + j] = target[3 * i] * current[3 * j] + target[3 * i + 1] * current[3 * j + 1] +
                           target[3 * i + 2] * current[3 * j + 2];
    double x = 0.5 * (m[7] - m[5]), y = 0.5 * (m[2] - m[6]), z = 0.5 * (m[3] - m[1]);
    double sine = sqrt(x * x + y * y + z * z), cosine = 0.5 * (m[0] + m[4] + m[8] - 1.0);
    if (sine < 1e-6 && cosine < 0) {
        half_turn(m, out);
        return;
    }
    double scale = sine > 1e-12 ? atan2(sine, cosine) / sine : 1.0;
    out[0] = x * scale, out[1] = y * scale, out[2] = z * scale;
}

static double norm3(const double *v) { return sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]); }

/* x = (G)^-1 b for symmetric positive definite G [6, 6] */
static int solve6(double G[6][6], const double *b, double *x) {
    double L[6][6], y[6];
    for (int i = 0; i < 6; i++)
        for (int j = 0; j <= i; j++) {
            double sum = G[i][j];
            for (int k = 0; k < j; k++) sum -= L[i][k] * L[j][k];
            if (i == j) {
                if (!(sum > 0)) return -1;
                L[i][i] = sqrt(sum);
            } else L[i][j] = sum / L[j][j];
        }
    for (int i = 0; i < 6; i++) {
        double sum = b[i];
        for (int k = 0; k < i; k++) sum -= L[i][k] * y[k];
        y[i] = sum / L[i][i];
    }
    for (int i = 5; i >= 0; i--) {
        double sum = y[i];
        for (int k = i + 1; k < 6; k++) sum -= L[k][i] * x[k];
        x[i] = sum / L[i][i];
    }
    return 0;
}

/* False, and no step, where the pose is within the tolerances and nothing pulls. */
static int ik_step(const Chain *chain, const double *q, const double *target, const double *rotation, double damping,
                   double most_m, double most_rad, double nullspace, double tolerance_m, double tolerance_rad, double *step,
                   double *distance, double *angle) {
    int n = chain->n;
    Pose frames[MOST_JOINTS], tcp;
    double jacobian[6][MOST_JOINTS], error[6], G[6][6], x[6] = {0};
    chain_forward(chain, q, &tcp, frames);
    for (int k = 0; k < 3; k++) error[k] = target[k] - tcp.t[k];
    rotation_error(rotation, tcp.r, error + 3);
    *distance = norm3(error), *angle = norm3(error + 3);
    if (*distance <= tolerance_m && *angle <= tolerance_rad && nullspace == 0.0) return 0;
    for (int i = 0; i < n; i++) {
        const double *r = frames[i].r, *l = chain->axis[i];
        double ax = r[0] * l[0] + r[1] * l[1] + r[2] * l[2], ay = r[3] * l[0] + r[4] * l[1] + r[5] * l[2],
               az = r[6] * l[0] + r[7] * l[1] + r[8] * l[2];
        double dx = tcp.t[0] - frames[i].t[0], dy = tcp.t[1] - frames[i].t[1], dz = tcp.t[2] - frames[i].t[2];
        jacobian[0][i] = ay * dz - az * dy, jacobian[1][i] = az * dx - ax * dz, jacobian[2][i] = ax * dy - ay * dx;
        jacobian[3][i] = ax, jacobian[4][i] = ay, jacobian[5][i] = az;
    }
    if (*distance > most_m)
        for (int k = 0; k < 3; k++) error[k] *= most_m / *distance;
    if (*angle > most_rad)
        for (int k = 3; k < 6; k++) error[k] *= most_rad / *angle;
    for (int i = 0; i < 6; i++)
        for (int j = 0; j <= i; j++) {
            double sum = 0;
            for (int k = 0; k < n; k++) sum += jacobian[i][k] * jacobian[j][k];
            G[i][j] = G[j][i] = sum + (i == j ? damping * damping : 0.0);
        }
    int pulled = nullspace != 0.0 && n > 6;
    if (pulled)
        for (int i = 0; i < 6; i++)
            for (int k = 0; k < n; k++) error[i] -= jacobian[i][k] * nullspace * (chain->home[k] - q[k]);
    if (solve6(G, error, x) < 0) /* only what is not finite has no solution here, and it must not become a motion */
        for (int i = 0; i < 6; i++) x[i] = NAN;
    for (int k = 0; k < n; k++) {
        double sum = pulled ? nullspace * (chain->home[k] - q[k]) : 0.0;
        for (int i = 0; i < 6; i++) sum += jacobian[i][k] * x[i];
        step[k] = sum;
    }
    return 1;
}

static void chain_solve(const Chain *chain, double *q, const double *target, const double *rotation, long iterations,
                        double damping, double most_m, double most_rad, double nullspace, double tolerance_m,
                        double tolerance_rad, double *distance, double *angle, long *taken, int *converged) {
    double step[MOST_JOINTS];
    *converged = 0;
    for (*taken = 0; *taken < iterations; (*taken)++) {
        double pull = *taken == 0 ? nullspace : 0.0;
        if (!ik_step(chain, q, target, rotation, damping, most_m, most_rad, pull, tolerance_m, tolerance_rad, step, distance,
                     angle)) {
            *converged = 1;
            return;
        }
        for (int k = 0; k < chain->n; k++) { /* comparisons, not fmin: a NaN has to stay one */
            q[k] += step[k];
            if (q[k] < chain->lower[k]) q[k] = chain->lower[k];
            if (q[k] > chain->upper[k]) q[k] = chain->upper[k];
        }
    }
}

static int read_poses(PyObject *object, Pose *out, int n) {
    double raw[16 * MOST_JOINTS];
    if (read_doubles(object, raw, 16 * n) < 0) return -1;
    for (int i = 0; i < n; i++)
        for (int r = 0; r < 3; r++) {
            for (int c = 0; c < 3; c++) out[i].r[3 * r + c] = raw[16 * i + 4 * r + c];
            out[i].t[r] = raw[16 * i + 4 * r + 3];
        }
    return 0;
}

static int Chain_init(Chain *self, PyObject *args, PyObject *keywords) {
    static char *names[] = {"n", "constant", "cosine", "sine", "tcp", "axis", "lower", "upper", "home", NULL};
    PyObject *constant, *cosine, *sine, *tcp, *axis, *lower, *upper, *home;
    int n;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "iOOOOOOOO", names, &n, &constant, &cosine, &sine, &tcp, &axis,
                                     &lower, &upper, &home))
        return -1;
    if (n < 1 || n > MOST_JOINTS) {
        PyErr_Format(PyExc_ValueError, "1 to %d joints, got %d", MOST_JOINTS, n);
        return -1;
    }
    self->n = n;
    if (read_poses(constant, self->constant, n) < 0 || read_poses(cosine, self->cosine, n) < 0 ||
        read_poses(sine, self->sine, n) < 0 || read_poses(tcp, &self->tcp, 1) < 0 ||
        read_doubles(axis, self->axis[0], 3 * n) < 0 || read_doubles(lower, self->lower, n) < 0 ||
        read_doubles(upper, self->upper, n) < 0 || read_doubles(home, self->home, n) < 0)
        return -1;
    return 0;
}

static PyObject *Chain_forward_py(Chain *self, PyObject *const *args, Py_ssize_t count) {
    double q[MOST_JOINTS];
    Pose pose;
    if (count != 3) return PyErr_Format(PyExc_TypeError, "forward(q, position, rotation)");
    if (read_doubles(args[0], q, self->n) < 0) return NULL;
    chain_forward(self, q, &pose, NULL);
    if (write_doubles(args[1], pose.t, 3) < 0 || write_doubles(args[2], pose.r, 9) < 0) return NULL;
    Py_RETURN_NONE;
}

/* solve(q, position, rotation, iterations, damping, most_m, most_rad, nullspace, tolerance_m, tolerance_rad, out) */
static PyObject *Chain_solve(Chain *self, PyObject *const *args, Py_ssize_t count) {
    double q[MOST_JOINTS], target[3], rotation[9], distance = 0, angle = 0, numbers[6];
    if (count != 11) return PyErr_Format(PyExc_TypeError, "solve takes 11 arguments");
    long iterations = PyLong_AsLong(args[3]);
    for (int i = 0; i < 6; i++) numbers[i] = PyFloat_AsDouble(args[4 + i]);
    if (PyErr_Occurred() || read_doubles(args[0], q, self->n) < 0 || read_doubles(args[1], target, 3) < 0 ||
        read_doubles(args[2], rotation, 9) < 0)
        return NULL;
    long taken = 0;
    int converged = 0;
    chain_solve(self, q, target, rotation, iterations, numbers[0], numbers[1], numbers[2], numbers[3], numbers[4],
                numbers[5], &distance, &angle, &taken, &converged);
    if (!converged) {
        Pose pose;
        double error[3];
        chain_forward(self, q, &pose, NULL);
        for (int k = 0; k < 3; k++) error[k] = target[k] - pose.t[k];
        distance = norm3(error);
        rotation_error(rotation, pose.r, error);
        angle = norm3(error);
        converged = distance <= numbers[4] && angle <= numbers[5];
    }
    if (write_doubles(args[10], q, self->n) < 0) return NULL;
    return Py_BuildValue("ddlO", distance, angle, taken, converged ? Py_True : Py_False);
}

static PyMethodDef Chain_methods[] = {
    {"forward", (PyCFunction)(void (*)(void))Chain_forward_py, METH_FASTCALL, "forward(q [n], position [3], rotation [9]): TCP pose into the last two."},
    {"solve", (PyCFunction)(void (*)(void))Chain_solve, METH_FASTCALL, "Damped least squares, see Kinematics.solve."},
    {NULL, NULL, 0, NULL}};

static PyTypeObject ChainType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "robopolicy.control._native.Chain",
    .tp_basicsize = sizeof(Chain),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Kinematic chain, see Kinematics.",
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)Chain_init,
    .tp_methods = Chain_methods,
};

/* ------------------------------------------------------------------------------------------------------ TCP state */

typedef struct {
    PyObject_HEAD
    Chain *chain;
    int joints, width, ends, arm[MOST_JOINTS], end[MOST_JOINTS], place[MOST_JOINTS], position[3], rotation[6];
} TcpState;

static void TcpState_dealloc(TcpState *self) {
    Py_XDECREF(self->chain);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* TcpState(chain, J, S, arm joints, end joints, position, rotation, end places) */
static int TcpState_init(TcpState *self, PyObject *args, PyObject *keywords) {
    PyObject *chain, *arm, *end, *position, *rotation, *place;
    if (!PyArg_ParseTuple(args, "O!iiOOOOO", &ChainType, &chain, &self->joints, &self->width, &arm, &end, &position,
                          &rotation, &place))
        return -1;
    int good = self->width <= MOST_ACTIONS && self->joints <= MOST_JOINTS &&
               read_indices(arm, self->arm, MOST_JOINTS, self->joints) == ((Chain *)chain)->n &&
               (self->ends = read_indices(end, self->end, MOST_JOINTS, self->joints)) >= 0 &&
               read_indices(position, self->position, 3, self->width) == 3 &&
               read_indices(rotation, self->rotation, 6, self->width) == 6 &&
               read_indices(place, self->place, MOST_JOINTS, self->width) == self->ends &&
               9 + self->ends == self->width;
    if (!good) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "channels of state and joints do not fit");
        return -1;
    }
    Py_INCREF(chain);
    Py_XSETREF(self->chain, (Chain *)chain);
    return 0;
}

/* at(joints [J], state [S]) */
static PyObject *TcpState_at(TcpState *self, PyObject *const *args, Py_ssize_t count) {
    double joints[MOST_JOINTS], q[MOST_JOINTS], state[MOST_ACTIONS];
    Pose pose;
    if (count != 2) return PyErr_Format(PyExc_TypeError, "at(joints, state)");
    if (read_doubles(args[0], joints, self->joints) < 0) return NULL;
    for (int i = 0; i < self->chain->n; i++) q[i] = joints[self->arm[i]];
    chain_forward(self->chain, q, &pose, NULL);
    for (int k = 0; k < 3; k++) {
        state[self->position[k]] = pose.t[k];
        state[self->rotation[k]] = pose.r[3 * k], state[self->rotation[3 + k]] = pose.r[3 * k + 1];
    }
    for (int i = 0; i < self->ends; i++) state[self->place[i]] = joints[self->end[i]];
    if (write_doubles(args[1], state, self->width) < 0) return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef TcpState_methods[] = {
    {"at", (PyCFunction)(void (*)(void))TcpState_at, METH_FASTCALL, "at(joints [J], state [S])."}, {NULL, NULL, 0, NULL}};

static PyTypeObject TcpStateType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "robopolicy.control._native.TcpState",
    .tp_basicsize = sizeof(TcpState),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "From joints to the state vector of a card, see Kinematics.tcp_state.",
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)TcpState_init,
    .tp_dealloc = (destructor)TcpState_dealloc,
    .tp_methods = TcpState_methods,
};

/* ------------------------------------------------------------------------------------------------------- follower */

typedef struct {
    PyObject_HEAD
    Chain *chain;
    int width, joints, ends, position[3], rotation[6], end[MOST_JOINTS], arm[MOST_JOINTS], target[MOST_JOINTS];
    long iterations;
    double damping, most_m, most_rad;
} Follower;

static void Follower_dealloc(Follower *self) {
    Py_XDECREF(self->chain);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* Follower(chain, A, J, position, rotation, end, arm joints, end joints, iterations, damping, most_m, most_rad) */
static int Follower_init(Follower *self, PyObject *args, PyObject *keywords) {
    PyObject *chain, *position, *rotation, *end, *arm, *target;
    if (!PyArg_ParseTuple(args, "O!iiOOOOOlddd", &ChainType, &chain, &self->width, &self->joints, &position, &rotation,
                          &end, &arm, &target, &self->iterations, &self->damping, &self->most_m, &self->most_rad))
        return -1;
    int good = self->width <= MOST_ACTIONS && self->joints <= MOST_JOINTS &&
               read_indices(position, self->position, 3, self->width) == 3 &&
               read_indices(rotation, self->rotation, 6, self->width) == 6 &&
               (self->ends = read_indices(end, self->end, MOST_JOINTS, self->width)) >= 0 &&
               read_indices(target, self->target, MOST_JOINTS, self->joints) == self->ends &&
               read_indices(arm, self->arm, MOST_JOINTS, self->joints) == ((Chain *)chain)->n;
    if (!good) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "channels of the action and joints do not fit");
        return -1;
    }
    Py_INCREF(chain);
    Py_XSETREF(self->chain, (Chain *)chain);
    return 0;
}

static void follow(const Follower *self, const double *reference, double nullspace, double *command) {
    double q[MOST_JOINTS], target[3], m[9], distance, angle;
    long taken;
    int converged;
    for (int k = 0; k < 3; k++) {
        int i = (k + 1) % 3, j = (k + 2) % 3;
        target[k] = reference[self->position[k]];
        m[3 * k] = reference[self->rotation[k]], m[3 * k + 1] = reference[self->rotation[3 + k]];
        m[3 * k + 2] = reference[self->rotation[i]] * reference[self->rotation[3 + j]] -
                       reference[self->rotation[j]] * reference[self->rotation[3 + i]];
    }
    for (int k = 0; k < self->chain->n; k++) q[k] = command[self->arm[k]];
    chain_solve(self->chain, q, target, m, self->iterations, self->damping, self->most_m, self->most_rad, nullspace, 1e-5,
                1e-4, &distance, &angle, &taken, &converged);
    for (int k = 0; k < self->chain->n; k++) command[self->arm[k]] = q[k];
    for (int k = 0; k < self->ends; k++) command[self->target[k]] = reference[self->end[k]];
}

static PyTypeObject FollowerType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "robopolicy.control._native.Follower",
    .tp_basicsize = sizeof(Follower),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "From a reference in TCP poses to joints, see Executor.",
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)Follower_init,
    .tp_dealloc = (destructor)Follower_dealloc,
};

/* -------------------------------------------------------------------------------------------------------- limiter */

typedef struct {
    Chain *chain;
    int n, joints[MOST_JOINTS], widened;
    double box[2][3], active[2][3], reach[MOST_JOINTS];
} Guard;

typedef struct {
    PyObject_HEAD
    int count, guards;
    Channel *channels;
    Guard *guard;
} Limiter;

static int inside(const double *p, double box[2][3]) {
    for (int k = 0; k < 3; k++)
        if (!(p[k] >= box[0][k] && p[k] <= box[1][k])) return 0;
    return 1;
}

/* Whether the TCP stays in the box now and at each tick of braking. */
static int path_inside(const Limiter *self, const Guard *guard, const double *p0, const double *v0, const double *a0,
                       double box[2][3]) {
    double p[MOST_JOINTS], v[MOST_JOINTS], a[MOST_JOINTS];
    memcpy(p, p0, 8 * guard->n), memcpy(v, v0, 8 * guard->n), memcpy(a, a0, 8 * guard->n);
    for (long tick = 0; tick < MAX_TICKS; tick++) {
        Pose pose;
        chain_forward(guard->chain, p, &pose, NULL);
        if (!inside(pose.t, box)) return 0;
        int moving = 0;
        for (int i = 0; i < guard->n; i++) {
            if (v[i] == 0.0 && a[i] == 0.0) continue;
            const Channel *c = &self->channels[guard->joints[i]];
            a[i] = brake(v[i], a[i], c->A, c->J);
            v[i] += a[i];
            p[i] += v[i];
            moving = 1;
        }
        if (!moving) return 1;
    }
    return 0;
}

static int admits(const Limiter *self, Guard *guard, const double *steps) {
    double p[MOST_JOINTS], v[MOST_JOINTS], a[MOST_JOINTS], travel = 0, distance = INFINITY;
    Pose pose;
    for (int i = 0; i < guard->n; i++) {
        const Channel *c = &self->channels[guard->joints[i]];
        after(c, steps[guard->joints[i]], &p[i], &v[i], &a[i]);
        travel += guard->reach[i] * c->travel;
    }
    chain_forward(guard->chain, p, &pose, NULL);
    for (int k = 0; k < 3; k++) {
        double low = pose.t[k] - guard->active[0][k], high = guard->active[1][k] - pose.t[k];
        if (low < distance) distance = low;
        if (high < distance) distance = high;
    }
    if (!(distance >= 0)) return 0;
    return travel <= distance || path_inside(self, guard, p, v, a, guard->active);
}

static void slow_down(Limiter *self, Guard *guard, double *steps) {
    static const double shares[] = {0.5, 0.25, 0.0};
    double wish[MOST_JOINTS], stop[MOST_JOINTS];
    for (int i = 0; i < guard->n; i++) {
        Channel *c = &self->channels[guard->joints[i]];
        wish[i] = steps[guard->joints[i]], stop[i] = brake(c->v, c->a, c->A, c->J);
    }
    for (int s = 0; s < 3; s++) {
        for (int i = 0; i < guard->n; i++) {
            Channel *c = &self->channels[guard->joints[i]];
            double x = stop[i] + shares[s] * (wish[i] - stop[i]);
            steps[guard->joints[i]] = viable(c, x) ? x : stop[i];
        }
        if (shares[s] == 0.0 || admits(self, guard, steps)) return;
    }
}

static void Limiter_dealloc(Limiter *self) {
    for (int g = 0; g < self->guards; g++) Py_XDECREF(self->guard[g].chain);
    PyMem_Free(self->channels);
    PyMem_Free(self->guard);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static int read_guard(Limiter *self, Guard *guard, PyObject *entry) {
    PyObject *chain, *joints, *box, *reach;
    if (!PyArg_ParseTuple(entry, "O!OOO", &ChainType, &chain, &joints, &box, &reach)) return -1;
    guard->n = read_indices(joints, guard->joints, MOST_JOINTS, self->count);
    if (guard->n < 0) return -1;
    if (guard->n != ((Chain *)chain)->n) {
        PyErr_SetString(PyExc_ValueError, "chain and joints of a guard differ in number");
        return -1;
    }
    if (read_doubles(box, guard->box[0], 6) < 0 || read_doubles(reach, guard->reach, guard->n) < 0) return -1;
    memcpy(guard->active, guard->box, sizeof guard->box);
    Py_INCREF(chain);
    guard->chain = (Chain *)chain;
    return 0;
}

static int Limiter_init(Limiter *self, PyObject *args, PyObject *keywords) {
    static char *names[] = {"count", "lower", "upper", "velocity", "acceleration", "jerk", "guards", NULL};
    PyObject *parts[5], *guards;
    int count;
    double raw[5][MOST_JOINTS];
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "iOOOOOO!", names, &count, &parts[0], &parts[1], &parts[2],
                                     &parts[3], &parts[4], &PyTuple_Type, &guards))
        return -1;
    if (self->channels || count < 1 || count > MOST_JOINTS) {
        PyErr_Format(PyExc_ValueError, "1 to %d channels, got %d", MOST_JOINTS, count);
        return -1;
    }
    for (int k = 0; k < 5; k++)
        if (read_doubles(parts[k], raw[k], count) < 0) return -1;
    Py_ssize_t number = PyTuple_GET_SIZE(guards);
    self->channels = PyMem_Calloc(count, sizeof(Channel));
    self->guard = PyMem_Calloc(number ? number : 1, sizeof(Guard));
    if (!self->channels || !self->guard) {
        PyErr_NoMemory();
        return -1;
    }
    self->count = count;
    for (int i = 0; i < count; i++) {
        Channel *c = &self->channels[i];
        c->lower = raw[0][i], c->upper = raw[1][i], c->V = raw[2][i], c->A = raw[3][i], c->J = raw[4][i];
        c->tolerance = 1e-7 * c->J;
        channel_reset(c, 0.5 * (c->lower + c->upper), 0.0, 0.0);
    }
    for (Py_ssize_t g = 0; g < number; g++) {
        if (read_guard(self, &self->guard[g], PyTuple_GET_ITEM(guards, g)) < 0) return -1;
        self->guards++;
    }
    return 0;
}

/* reset(p, v, a) in tick units -> bit i set where channel i has no limited stop */
static PyObject *Limiter_reset(Limiter *self, PyObject *const *args, Py_ssize_t count) {
    double p[MOST_JOINTS], v[MOST_JOINTS], a[MOST_JOINTS];
    unsigned long long stuck = 0;
    if (count != 3) return PyErr_Format(PyExc_TypeError, "reset(p, v, a)");
    if (read_doubles(args[0], p, self->count) < 0 || read_doubles(args[1], v, self->count) < 0 ||
        read_doubles(args[2], a, self->count) < 0)
        return NULL;
    for (int i = 0; i < self->count; i++)
        if (!channel_reset(&self->channels[i], p[i], v[i], a[i])) stuck |= 1ULL << i;
    for (int g = 0; g < self->guards; g++) {
        Guard *guard = &self->guard[g];
        double q[MOST_JOINTS];
        Pose pose;
        for (int i = 0; i < guard->n; i++) q[i] = p[guard->joints[i]];
        chain_forward(guard->chain, q, &pose, NULL);
        guard->widened = 0;
        for (int k = 0; k < 3; k++) {
            guard->active[0][k] = fmin(guard->box[0][k], pose.t[k]);
            guard->active[1][k] = fmax(guard->box[1][k], pose.t[k]);
            guard->widened |= guard->active[0][k] != guard->box[0][k] || guard->active[1][k] != guard->box[1][k];
        }
    }
    return PyLong_FromUnsignedLongLong(stuck);
}

static PyObject *positions(const Limiter *self, PyObject *out) {
    double p[MOST_JOINTS];
    for (int i = 0; i < self->count; i++) p[i] = self->channels[i].p;
    if (write_doubles(out, p, self->count) < 0) return NULL;
    Py_RETURN_NONE;
}

/* One tick: serve a finite request within the limits. */
static void limit_tick(Limiter *self, const double *wish, int *bits_out, unsigned long long *touched_out) {
    double steps[MOST_JOINTS];
    unsigned long long touched = 0;
    int bits = 0;
    for (int i = 0; i < self->count; i++) {
        int met = 0;
        steps[i] = propose(&self->channels[i], wish[i], &met);
        if (met) bits |= met, touched |= 1ULL << i;
    }
    for (int g = 0; g < self->guards; g++) {
        Guard *guard = &self->guard[g];
        if (admits(self, guard, steps)) continue;
        bits |= WORKSPACE;
        for (int i = 0; i < guard->n; i++) touched |= 1ULL << guard->joints[i];
        slow_down(self, guard, steps);
    }
    for (int i = 0; i < self->count; i++) commit(&self->channels[i], steps[i]);
    for (int g = 0; g < self->guards; g++) {
        Guard *guard = &self->guard[g];
        if (!guard->widened) continue;
        double p[MOST_JOINTS], v[MOST_JOINTS], a[MOST_JOINTS];
        for (int i = 0; i < guard->n; i++) {
            const Channel *c = &self->channels[guard->joints[i]];
            p[i] = c->p, v[i] = c->v, a[i] = c->a;
        }
        if (path_inside(self, guard, p, v, a, guard->box)) {
            memcpy(guard->active, guard->box, sizeof guard->box);
            guard->widened = 0;
        }
    }
    *bits_out = bits, *touched_out = touched;
}

static int all_finite(const double *values, int count) {
    for (int i = 0; i < count; i++)
        if (!isfinite(values[i])) return 0;
    return 1;
}

/* limit(wish, out) -> (bits, touched); every request finite */
static PyObject *Limiter_limit(Limiter *self, PyObject *const *args, Py_ssize_t count) {
    double wish[MOST_JOINTS];
    unsigned long long touched;
    int bits;
    if (count != 2) return PyErr_Format(PyExc_TypeError, "limit(wish, out)");
    if (read_doubles(args[0], wish, self->count) < 0) return NULL;
    if (!all_finite(wish, self->count)) return PyErr_Format(PyExc_ValueError, "a request is not finite");
    limit_tick(self, wish, &bits, &touched);
    PyObject *done = positions(self, args[1]);
    if (!done) return NULL;
    Py_DECREF(done);
    return Py_BuildValue("iK", bits, touched);
}

static PyObject *Limiter_brake(Limiter *self, PyObject *out) {
    for (int i = 0; i < self->count; i++) commit_braking(&self->channels[i]);
    return positions(self, out);
}

static PyObject *Limiter_state(Limiter *self, PyObject *out) {
    double raw[3 * MOST_JOINTS];
    for (int i = 0; i < self->count; i++) {
        const Channel *c = &self->channels[i];
        raw[i] = c->p, raw[self->count + i] = c->v, raw[2 * self->count + i] = c->a;
    }
    if (write_doubles(out, raw, 3 * self->count) < 0) return NULL;
    Py_RETURN_NONE;
}

static PyObject *Limiter_at_rest(Limiter *self, PyObject *arg) {
    double share = PyFloat_AsDouble(arg);
    if (share == -1.0 && PyErr_Occurred()) return NULL;
    for (int i = 0; i < self->count; i++) {
        const Channel *c = &self->channels[i];
        if (!(fabs(c->v) <= share * c->V && fabs(c->v + c->a) <= share * c->V)) Py_RETURN_FALSE;
    }
    Py_RETURN_TRUE;
}

/* effort(channels): the largest |acceleration| among the channels of the bit mask, as a share of its limit */
static PyObject *Limiter_effort(Limiter *self, PyObject *arg) {
    unsigned long long channels = PyLong_AsUnsignedLongLong(arg);
    double largest = 0.0;
    if (PyErr_Occurred()) return NULL;
    for (int i = 0; i < self->count; i++)
        if (channels >> i & 1) largest = fmax(largest, fabs(self->channels[i].a) / self->channels[i].A);
    return PyFloat_FromDouble(largest);
}

static PyMethodDef Limiter_methods[] = {
    {"reset", (PyCFunction)(void (*)(void))Limiter_reset, METH_FASTCALL, "reset(p, v, a): bit i is set where no limited stop exists."},
    {"limit", (PyCFunction)(void (*)(void))Limiter_limit, METH_FASTCALL, "limit(wish, out) -> (bits, channels)."},
    {"brake", (PyCFunction)Limiter_brake, METH_O, "brake(out): one tick of braking."},
    {"state", (PyCFunction)Limiter_state, METH_O, "state(out [3, J]): position, velocity, acceleration in tick units."},
    {"at_rest", (PyCFunction)Limiter_at_rest, METH_O, "at_rest(share)."},
    {"effort", (PyCFunction)Limiter_effort, METH_O, "effort(channels): largest share of the acceleration limits in use."},
    {NULL, NULL, 0, NULL}};

static PyTypeObject LimiterType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "robopolicy.control._native.Limiter",
    .tp_basicsize = sizeof(Limiter),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Channels and workspaces of a robot, see SafetyLimiter.",
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)Limiter_init,
    .tp_dealloc = (destructor)Limiter_dealloc,
    .tp_methods = Limiter_methods,
};

/* ----------------------------------------------------------------------------------------------------------- path */

typedef struct {
    PyObject_HEAD
    int width, knots, rotations, grippers, rotation[6], gripper[MOST_JOINTS];
    int64_t *time_ns, tail_ns;
    double *values, *slopes;
} Path;

static void Path_dealloc(Path *self) {
    PyMem_Free(self->time_ns);
    PyMem_Free(self->values);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

#define OVERSHOOT 0.004

static void orthonormal6(double *r) {
    double n = pow(r[0] * r[0] + r[1] * r[1] + r[2] * r[2], -0.5);
    double x0 = r[0] * n, x1 = r[1] * n, x2 = r[2] * n, d = x0 * r[3] + x1 * r[4] + x2 * r[5];
    double y0 = r[3] - d * x0, y1 = r[4] - d * x1, y2 = r[5] - d * x2;
    n = pow(y0 * y0 + y1 * y1 + y2 * y2, -0.5);
    r[0] = x0, r[1] = x1, r[2] = x2, r[3] = y0 * n, r[4] = y1 * n, r[5] = y2 * n;
}

/* Slopes of the twice differentiable cubic spline with first and last slope given, kept within what does not overshoot;
   see _slopes in curve.py. Scratch [K] stands behind the slopes. */
static void path_slopes(Path *self, const double *rate) {
    int K = self->knots, A = self->width;
    double *m = self->slopes, *upper = m + (size_t)K * A;
    memset(m, 0, 8 * (size_t)K * A);
    if (K == 1) return;
#define WIDTH(i) ((double)(self->time_ns[(i) + 1] - self->time_ns[i]) * 1e-9)
#define SECANT(i) ((self->values[((i) + 1) * A + j] - self->values[(i) * A + j]) / WIDTH(i))
    upper[0] = 0.0;
    for (int i = 1; i + 1 < K; i++) {
        double left = WIDTH(i - 1), right = WIDTH(i);
        upper[i] = left / (2.0 * (left + right) - right * upper[i - 1]);
    }
    for (int j = 0; j < A; j++) {
        m[j] = rate[j];
        m[(K - 1) * A + j] = SECANT(K - 2);
        for (int i = 1; i + 1 < K; i++) {
            double left = WIDTH(i - 1), right = WIDTH(i);
            double load = 3.0 * (right * SECANT(i - 1) + left * SECANT(i));
            m[i * A + j] = (load - right * m[(i - 1) * A + j]) / (2.0 * (left + right) - right * upper[i - 1]);
        }
        for (int i = K - 2; i > 0; i--) m[i * A + j] = m[i * A + j] - upper[i] * m[(i + 1) * A + j];
        for (int i = 1; i + 1 < K; i++) {
            double before = SECANT(i - 1), after = SECANT(i), least = fmin(fabs(before), fabs(after));
            double most = (before * after > 0 ? 3.0 * least : 0.0) + OVERSHOOT / fmin(WIDTH(i - 1), WIDTH(i));
            m[i * A + j] = fmin(fmax(m[i * A + j], -most), most);
        }
    }
#undef WIDTH
#undef SECANT
}

/* Path(times, values [K, A], rate [A], tail_ns, rotation, gripper) */
static int Path_init(Path *self, PyObject *args, PyObject *keywords) {
    PyObject *times, *values, *rate, *rotation, *gripper;
    long long tail_ns;
    double start_rate[MOST_ACTIONS];
    if (!PyArg_ParseTuple(args, "OOOLOO", &times, &values, &rate, &tail_ns, &rotation, &gripper)) return -1;
    PyObject *fast = PySequence_Fast(times, "times must be a sequence");
    if (!fast) return -1;
    Py_ssize_t K = PySequence_Fast_GET_SIZE(fast);
    Py_buffer view;
    if (self->values || K < 1 || doubles(values, &view, -1, 0) < 0) {
        Py_DECREF(fast);
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "a path needs a knot, and is made once");
        return -1;
    }
    Py_ssize_t A = view.len / 8 / K;
    int good = A >= 1 && A <= MOST_ACTIONS && A * K * 8 == view.len;
    if (good) {
        self->knots = (int)K, self->width = (int)A;
        self->time_ns = PyMem_Malloc(8 * K);
        self->values = PyMem_Malloc(16 * K * A + 8 * K);
        good = self->time_ns && self->values;
        if (!good) PyErr_NoMemory();
    } else PyErr_Format(PyExc_ValueError, "values must be [%zd, A], A at most %d", K, MOST_ACTIONS);
    if (good) {
        self->slopes = self->values + K * A;
        memcpy(self->values, view.buf, view.len);
    }
    PyBuffer_Release(&view);
    for (Py_ssize_t i = 0; good && i < K; i++) {
        self->time_ns[i] = PyLong_AsLongLong(PySequence_Fast_GET_ITEM(fast, i));
        if (PyErr_Occurred()) good = 0;
        else if (i && self->time_ns[i] <= self->time_ns[i - 1]) {
            PyErr_SetString(PyExc_ValueError, "times must grow");
            good = 0;
        }
    }
    Py_DECREF(fast);
    if (!good || read_doubles(rate, start_rate, A) < 0) return -1;
    self->rotations = read_indices(rotation, self->rotation, 6, (int)A);
    self->grippers = self->rotations < 0 ? -1 : read_indices(gripper, self->gripper, MOST_JOINTS, (int)A);
    if (self->grippers < 0) return -1;
    self->tail_ns = K > 1 ? tail_ns : 0;
    path_slopes(self, start_rate);
    return 0;
}

/* Neighbouring knots and slopes at a time; 0 where the path stands still. */
static int piece(const Path *self, int64_t t, const double **first, const double **second, int64_t *start, int64_t *width,
                 const double **m0, const double **m1) {
    int A = self->width, last = self->knots - 1;
    int64_t end = self->time_ns[last];
    if (t < self->time_ns[0] || t >= end + self->tail_ns) {
        *first = self->values + (t < self->time_ns[0] ? 0 : last * A);
        return 0;
    }
    if (t >= end) {
        *first = *second = self->values + last * A, *start = end, *width = self->tail_ns;
        *m0 = self->slopes + last * A, *m1 = NULL;
        return 1;
    }
    int low = 0, high = last;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (self->time_ns[middle] <= t) low = middle;
        else high = middle;
    }
    *first = self->values + low * A, *second = self->values + high * A;
    *start = self->time_ns[low], *width = self->time_ns[high] - self->time_ns[low];
    *m0 = self->slopes + low * A, *m1 = self->slopes + high * A;
    return 1;
}

static void path_at(const Path *self, int64_t t, double *out) {
    const double *first, *second, *m0, *m1;
    int64_t start, width;
    int A = self->width;
    if (!piece(self, t, &first, &second, &start, &width, &m0, &m1)) {
        memcpy(out, first, 8 * A);
        return;
    }
    double u = (double)(t - start) / (double)width, h = (double)width * 1e-9, rest = 1.0 - u;
    double blend = u * u * (3.0 - 2.0 * u), c0 = h * u * rest * rest, c1 = h * u * u * rest;
    for (int j = 0; j < A; j++) out[j] = first[j] + blend * (second[j] - first[j]) + c0 * m0[j] - c1 * (m1 ? m1[j] : 0.0);
    for (int g = 0; g < self->grippers; g++) {
        int j = self->gripper[g];
        out[j] = first[j] + u * (second[j] - first[j]);
    }
    if (self->rotations) {
        double r[6];
        for (int k = 0; k < 6; k++) r[k] = out[self->rotation[k]];
        orthonormal6(r);
        for (int k = 0; k < 6; k++) out[self->rotation[k]] = r[k];
    }
}

static void path_rate(const Path *self, int64_t t, double *out) {
    const double *first, *second, *m0, *m1;
    int64_t start, width;
    int A = self->width;
    if (!piece(self, t, &first, &second, &start, &width, &m0, &m1)) {
        memset(out, 0, 8 * A);
        return;
    }
    double u = (double)(t - start) / (double)width, h = (double)width * 1e-9;
    for (int j = 0; j < A; j++) {
        double slope = (second[j] - first[j]) / h;
        out[j] = 6.0 * u * (1.0 - u) * slope + (1.0 - u) * (1.0 - 3.0 * u) * m0[j] + u * (3.0 * u - 2.0) * (m1 ? m1[j] : 0.0);
    }
    for (int g = 0; g < self->grippers; g++) out[self->gripper[g]] = (second[self->gripper[g]] - first[self->gripper[g]]) / h;
}

static PyObject *Path_at(Path *self, PyObject *const *args, Py_ssize_t count) {
    double out[MOST_ACTIONS];
    if (count != 2) return PyErr_Format(PyExc_TypeError, "at(time_ns, out)");
    int64_t t = PyLong_AsLongLong(args[0]);
    if (t == -1 && PyErr_Occurred()) return NULL;
    path_at(self, t, out);
    if (write_doubles(args[1], out, self->width) < 0) return NULL;
    Py_RETURN_NONE;
}

static PyObject *Path_rate(Path *self, PyObject *const *args, Py_ssize_t count) {
    double out[MOST_ACTIONS];
    if (count != 2) return PyErr_Format(PyExc_TypeError, "rate(time_ns, out)");
    int64_t t = PyLong_AsLongLong(args[0]);
    if (t == -1 && PyErr_Occurred()) return NULL;
    path_rate(self, t, out);
    if (write_doubles(args[1], out, self->width) < 0) return NULL;
    Py_RETURN_NONE;
}

static PyTypeObject PathType;

/* join(start_ns, times int64 [K], values [K, A], tail_ns) -> Path: from where this one is at start_ns, with its rate, through
 * the knots, which are later */
static PyObject *Path_join(Path *self, PyObject *const *args, Py_ssize_t count) {
    Py_buffer times, values;
    if (count != 4) return PyErr_Format(PyExc_TypeError, "join(start_ns, times, values, tail_ns)");
    long long start = PyLong_AsLongLong(args[0]), tail = PyLong_AsLongLong(args[3]);
    if (PyErr_Occurred() || PyObject_GetBuffer(args[1], &times, PyBUF_C_CONTIGUOUS) < 0) return NULL;
    Py_ssize_t K = times.len / 8;
    int A = self->width;
    Path *made = NULL;
    if (doubles(args[2], &values, K * A, 0) == 0) {
        made = (Path *)PathType.tp_alloc(&PathType, 0);
        if (made) {
            made->time_ns = PyMem_Malloc(8 * (K + 1));
            made->values = PyMem_Malloc(16 * (K + 1) * A + 8 * (K + 1));
            if (!made->time_ns || !made->values) {
                Py_CLEAR(made);
                PyErr_NoMemory();
            }
        }
        if (made) {
            double rate[MOST_ACTIONS];
            made->knots = (int)K + 1, made->width = A, made->tail_ns = tail;
            made->slopes = made->values + (K + 1) * A;
            made->rotations = self->rotations, made->grippers = self->grippers;
            memcpy(made->rotation, self->rotation, sizeof self->rotation);
            memcpy(made->gripper, self->gripper, sizeof self->gripper);
            made->time_ns[0] = start;
            memcpy(made->time_ns + 1, times.buf, 8 * K);
            path_at(self, start, made->values);
            memcpy(made->values + A, values.buf, 8 * K * A);
            path_rate(self, start, rate);
            for (Py_ssize_t i = 0; made && i < K; i++)
                if (made->time_ns[i + 1] <= made->time_ns[i]) {
                    PyErr_SetString(PyExc_ValueError, "times must grow");
                    Py_CLEAR(made);
                }
            if (made) path_slopes(made, rate);
        }
        PyBuffer_Release(&values);
    }
    PyBuffer_Release(&times);
    return (PyObject *)made;
}

static PyMethodDef Path_methods[] = {
    {"at", (PyCFunction)(void (*)(void))Path_at, METH_FASTCALL, "at(time_ns, out [A])."},
    {"rate", (PyCFunction)(void (*)(void))Path_rate, METH_FASTCALL, "rate(time_ns, out [A])."},
    {"join", (PyCFunction)(void (*)(void))Path_join, METH_FASTCALL, "join(start_ns, times [K], values [K, A], tail_ns) -> Path."},
    {NULL, NULL, 0, NULL}};

static PyTypeObject PathType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "robopolicy.control._native.Path",
    .tp_basicsize = sizeof(Path),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Piecewise cubic through knots, see Curve.",
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)Path_init,
    .tp_dealloc = (destructor)Path_dealloc,
    .tp_methods = Path_methods,
};

/* --------------------------------------------------------------------------------------------------------- a tick */

/* track(path, follower or None, limiter, time_ns, nullspace, position [J], velocity [J], reference [A], command [J]) -> True
 * when the request goes through, (bits, touched) when it met limits, None when it is not finite, False when the measured position or
 * velocity is not or has another width; in the last two cases nothing was done. */
static PyObject *track(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    double reference[MOST_ACTIONS], wish[MOST_JOINTS], measured[MOST_JOINTS];
    unsigned long long touched;
    int bits;
    if (count != 9 || !Py_IS_TYPE(args[0], &PathType) || !Py_IS_TYPE(args[2], &LimiterType) ||
        !(args[1] == Py_None || Py_IS_TYPE(args[1], &FollowerType)))
        return PyErr_Format(PyExc_TypeError,
                            "track(path, follower, limiter, time_ns, nullspace, position, velocity, reference, command)");
    Path *path = (Path *)args[0];
    Limiter *limiter = (Limiter *)args[2];
    Follower *follower = args[1] == Py_None ? NULL : (Follower *)args[1];
    int64_t time_ns = PyLong_AsLongLong(args[3]);
    double nullspace = PyFloat_AsDouble(args[4]);
    if (PyErr_Occurred()) return NULL;
    if (follower ? follower->width != path->width || follower->joints != limiter->count : path->width != limiter->count)
        return PyErr_Format(PyExc_ValueError, "path, follower and limiter are of different robots");
    for (int i = 5; i < 7; i++) {
        if (read_doubles(args[i], measured, limiter->count) < 0) { /* not contiguous doubles, or another number of them */
            PyErr_Clear();
            PyObject *numbers = contiguous(args[i]);
            int read = numbers ? read_doubles(numbers, measured, limiter->count) : -1;
            Py_XDECREF(numbers);
            if (read < 0) {
                PyErr_Clear();
                Py_RETURN_FALSE;
            }
        }
        if (!all_finite(measured, limiter->count)) Py_RETURN_FALSE;
    }
    path_at(path, time_ns, reference);
    if (follower) {
        for (int i = 0; i < limiter->count; i++) wish[i] = limiter->channels[i].p;
        follow(follower, reference, nullspace, wish);
    } else memcpy(wish, reference, 8 * limiter->count);
    if (write_doubles(args[7], reference, path->width) < 0) return NULL;
    if (!all_finite(reference, path->width) || !all_finite(wish, limiter->count)) Py_RETURN_NONE;
    limit_tick(limiter, wish, &bits, &touched);
    PyObject *done = positions(limiter, args[8]);
    if (!done) return NULL;
    Py_DECREF(done);
    if (!bits) Py_RETURN_TRUE;
    return Py_BuildValue("iK", bits, touched);
}

/* finite(values): every one of them */
static PyObject *finite_py(PyObject *module, PyObject *object) {
    Py_buffer view;
    PyObject *numbers = contiguous(object);
    if (!numbers) return NULL;
    int good = doubles(numbers, &view, -1, 0) == 0;
    if (good) {
        good = all_finite(view.buf, (int)(view.len / 8));
        PyBuffer_Release(&view);
    }
    Py_DECREF(numbers);
    return PyErr_Occurred() ? NULL : PyBool_FromLong(good);
}

static PyMethodDef functions[] = {
    {"finite", (PyCFunction)finite_py, METH_O, "finite(values): every one of them."},
    {"track", (PyCFunction)(void (*)(void))track, METH_FASTCALL, "One tick from path to limited command, see Executor.tick."},
    {NULL, NULL, 0, NULL}};

/* ---------------------------------------------------------------------------------------------------------- servo */

#define MOST_GRIPPERS 16

typedef struct { int channel, count, qpos[2], qvel[2]; double closed, travel; } Gripper;

typedef struct {
    PyObject_HEAD
    PyObject *pair[2], *step;
    Py_buffer control, qpos, qvel;
    int joints, first, grippers, position[MOST_JOINTS], velocity[MOST_JOINTS];
    long substeps;
    double lead[MOST_JOINTS];
    Gripper gripper[MOST_GRIPPERS];
} Servo;

static void Servo_dealloc(Servo *self) {
    Py_buffer *views[] = {&self->control, &self->qpos, &self->qvel};
    for (int i = 0; i < 3; i++)
        if (views[i]->obj) PyBuffer_Release(views[i]);
    Py_XDECREF(self->pair[0]);
    Py_XDECREF(self->pair[1]);
    Py_XDECREF(self->step);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static int read_gripper(PyObject *entry, Gripper *out, int joints, int nq, int nv) {
    PyObject *qpos, *qvel;
    if (!PyArg_ParseTuple(entry, "iOOdd", &out->channel, &qpos, &qvel, &out->closed, &out->travel)) return -1;
    out->count = read_indices(qpos, out->qpos, 2, nq);
    if (out->count < 0 || read_indices(qvel, out->qvel, 2, nv) != out->count || out->count < 1 || out->channel < 0 ||
        out->channel >= joints) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "a gripper has one or two joints and a channel");
        return -1;
    }
    return 0;
}

/* Servo(step, model, data, control [nu], qpos, qvel, first, substeps, lead [J], positions [J], velocities [J], grippers):
 * the buffers are those of data, and stay. */
static int Servo_init(Servo *self, PyObject *args, PyObject *keywords) {
    PyObject *step, *model, *data, *control, *qpos, *qvel, *lead, *positions, *velocities, *grippers;
    if (self->step) {
        PyErr_SetString(PyExc_ValueError, "made once");
        return -1;
    }
    if (!PyArg_ParseTuple(args, "OOOOOOilOOOO!", &step, &model, &data, &control, &qpos, &qvel, &self->first,
                          &self->substeps, &lead, &positions, &velocities, &PyTuple_Type, &grippers) ||
        doubles(control, &self->control, -1, 1) < 0)
        return -1;
    if (doubles(qpos, &self->qpos, -1, 0) < 0 || doubles(qvel, &self->qvel, -1, 0) < 0) return -1;
    int nq = (int)(self->qpos.len / 8), nv = (int)(self->qvel.len / 8), nu = (int)(self->control.len / 8);
    self->joints = read_indices(positions, self->position, MOST_JOINTS, nq);
    if (self->joints < 0 || read_doubles(lead, self->lead, self->joints) < 0) return -1;
    self->grippers = (int)PyTuple_GET_SIZE(grippers);
    if (read_indices(velocities, self->velocity, MOST_JOINTS, nv) != self->joints || self->first < 0 ||
        self->first + self->joints > nu || self->substeps < 1 || self->grippers > MOST_GRIPPERS) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "joints, controls and steps do not fit");
        return -1;
    }
    for (int g = 0; g < self->grippers; g++)
        if (read_gripper(PyTuple_GET_ITEM(grippers, g), &self->gripper[g], self->joints, nq, nv) < 0) return -1;
    self->step = Py_NewRef(step), self->pair[0] = Py_NewRef(model), self->pair[1] = Py_NewRef(data);
    return 0;
}

static double mean_of(const double *values, const int *places, int count) {
    return count == 2 ? (values[places[0]] + values[places[1]]) / 2 : values[places[0]];
}

/* measure(position [J], velocity [J]): what the joints do now, grippers by their opening */
static PyObject *Servo_measure(Servo *self, PyObject *const *args, Py_ssize_t count) {
    double position[MOST_JOINTS], velocity[MOST_JOINTS];
    const double *qpos = self->qpos.buf, *qvel = self->qvel.buf;
    if (count != 2) return PyErr_Format(PyExc_TypeError, "measure(position, velocity)");
    for (int i = 0; i < self->joints; i++) position[i] = qpos[self->position[i]], velocity[i] = qvel[self->velocity[i]];
    for (int g = 0; g < self->grippers; g++) {
        const Gripper *own = &self->gripper[g];
        double opening = (mean_of(qpos, own->qpos, own->count) - own->closed) / own->travel;
        if (opening < 0.0) opening = 0.0;
        if (opening > 1.0) opening = 1.0;
        position[own->channel] = opening;
        velocity[own->channel] = mean_of(qvel, own->qvel, own->count) / own->travel;
    }
    if (write_doubles(args[0], position, self->joints) < 0 || write_doubles(args[1], velocity, self->joints) < 0) return NULL;
    Py_RETURN_NONE;
}

/* drive(begin [J], position [J]): the controls move on a straight line with feed-forward from ``begin``, in the units of the
 * actuators, to a command; step(model, data) is called after each write. ``begin`` is then where they are. False when the
 * positions are not finite any more. */
static PyObject *Servo_drive(Servo *self, PyObject *const *args, Py_ssize_t count) {
    double reference[MOST_JOINTS], target[MOST_JOINTS], change[MOST_JOINTS], ahead[MOST_JOINTS];
    if (count != 2) return PyErr_Format(PyExc_TypeError, "drive(begin, position)");
    if (read_doubles(args[1], target, self->joints) < 0 || read_doubles(args[0], reference, self->joints) < 0) return NULL;
    for (int g = 0; g < self->grippers; g++) {
        const Gripper *own = &self->gripper[g];
        target[own->channel] = own->closed + target[own->channel] * own->travel;
    }
    for (int i = 0; i < self->joints; i++) {
        change[i] = (target[i] - reference[i]) / (double)self->substeps;
        ahead[i] = change[i] * self->lead[i];
    }
    double *out = (double *)self->control.buf + self->first;
    for (long k = 0; k < self->substeps; k++) {
        for (int i = 0; i < self->joints; i++) {
            reference[i] += change[i];
            out[i] = reference[i] + ahead[i];
        }
        PyObject *done = PyObject_Vectorcall(self->step, self->pair, 2, NULL);
        if (!done) return NULL;
        Py_DECREF(done);
    }
    if (write_doubles(args[0], target, self->joints) < 0) return NULL;
    return PyBool_FromLong(all_finite(self->qpos.buf, (int)(self->qpos.len / 8)));
}

static PyMethodDef Servo_methods[] = {
    {"measure", (PyCFunction)(void (*)(void))Servo_measure, METH_FASTCALL, "measure(position [J], velocity [J])."},
    {"drive", (PyCFunction)(void (*)(void))Servo_drive, METH_FASTCALL, "drive(begin [J], position [J]) -> still finite."},
    {NULL, NULL, 0, NULL}};

static PyTypeObject ServoType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "robopolicy.control._native.Servo",
    .tp_basicsize = sizeof(Servo),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Joints of a simulated robot: measured, and driven for one setpoint, see SimulatedRobot.servo.",
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)Servo_init,
    .tp_dealloc = (destructor)Servo_dealloc,
    .tp_methods = Servo_methods,
};

/* --------------------------------------------------------------------------------------------------------- checks */

typedef struct {
    PyObject_HEAD
    int width, positions, rotations, position[MOST_ACTIONS], rotation[6];
    double middle[MOST_ACTIONS], reach[MOST_ACTIONS], lower[MOST_ACTIONS], upper[MOST_ACTIONS];
} Checks;

/* Checks(width, position, rotation, middle, reach, lower, upper) */
static int Checks_init(Checks *self, PyObject *args, PyObject *keywords) {
    PyObject *position, *rotation, *middle, *reach, *lower, *upper;
    if (!PyArg_ParseTuple(args, "iOOOOOO", &self->width, &position, &rotation, &middle, &reach, &lower, &upper)) return -1;
    if (self->width < 1 || self->width > MOST_ACTIONS) {
        PyErr_Format(PyExc_ValueError, "1 to %d actions, got %d", MOST_ACTIONS, self->width);
        self->width = 0;
        return -1;
    }
    self->positions = read_indices(position, self->position, MOST_ACTIONS, self->width);
    self->rotations = self->positions < 0 ? -1 : read_indices(rotation, self->rotation, 6, self->width);
    if (self->rotations < 0 || read_doubles(middle, self->middle, self->width) < 0 ||
        read_doubles(reach, self->reach, self->width) < 0 || read_doubles(lower, self->lower, self->width) < 0 ||
        read_doubles(upper, self->upper, self->width) < 0)
        return -1;
    if (self->rotations != 0 && self->rotations != 6) {
        PyErr_SetString(PyExc_ValueError, "a rotation has six channels");
        return -1;
    }
    return 0;
}

static void turn_of(const double *a, const double *b, double *m) {
    /* columns of R_a^T R_b of two orthonormal 6-D rotations */
    double A[3][3], B[3][3];
    for (int k = 0; k < 3; k++) A[0][k] = a[k], A[1][k] = a[3 + k], B[0][k] = b[k], B[1][k] = b[3 + k];
    for (int k = 0; k < 3; k++) {
        int i = (k + 1) % 3, j = (k + 2) % 3;
        A[2][k] = A[0][i] * A[1][j] - A[0][j] * A[1][i];
        B[2][k] = B[0][i] * B[1][j] - B[0][j] * B[1][i];
    }
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) m[3 * i + j] = A[i][0] * B[j][0] + A[i][1] * B[j][1] + A[i][2] * B[j][2];
}

/* check(values [K, A], most_turn_rad) -> 0 fine, 1 out of bounds, 2 no rotation */
static PyObject *Checks_check(Checks *self, PyObject *const *args, Py_ssize_t count) {
    Py_buffer view;
    if (count != 2) return PyErr_Format(PyExc_TypeError, "check(values, most_turn_rad)");
    double most_cosine = cos(PyFloat_AsDouble(args[1])), before[6] = {0};
    if (PyErr_Occurred() || doubles(args[0], &view, -1, 0) < 0) return NULL;
    const double *values = view.buf;
    Py_ssize_t K = view.len / 8 / self->width;
    long found = K * self->width * 8 == view.len ? 0 : -1;
    for (Py_ssize_t i = 0; found == 0 && i < K * self->width; i++)
        if (fabs(values[i] - self->middle[i % self->width]) > self->reach[i % self->width]) found = 1;
    for (Py_ssize_t k = 0; found == 0 && self->rotations && k < K; k++) {
        double r[6], cross[3], m[9];
        for (int i = 0; i < 6; i++) r[i] = values[k * self->width + self->rotation[i]];
        for (int i = 0; i < 3; i++)
            cross[i] = r[(i + 1) % 3] * r[3 + (i + 2) % 3] - r[(i + 2) % 3] * r[3 + (i + 1) % 3];
        if (!(norm3(cross) >= 0.1)) found = 2;
        orthonormal6(r);
        for (int i = 0; i < 6; i++)
            if (!isfinite(r[i])) found = 2;
        if (found == 0 && k > 0) {
            turn_of(before, r, m);
            if (0.5 * (m[0] + m[4] + m[8] - 1.0) < most_cosine) found = 2;
        }
        memcpy(before, r, sizeof r);
    }
    PyBuffer_Release(&view);
    if (found < 0) return PyErr_Format(PyExc_ValueError, "values must be [K, %d]", self->width);
    return PyLong_FromLong(found);
}

/* select(values [H, A], valid bool [H], t0_ns, dt_s, shift_ns, after_ns, times int64 [H], out [H, A]) -> rows that are valid
 * and later than after_ns, packed to the front of times and out; -1 when a valid value is not finite, -2 when none is valid */
static PyObject *Checks_select(Checks *self, PyObject *const *args, Py_ssize_t count) {
    Py_buffer values, valid, times, out;
    if (count != 8) return PyErr_Format(PyExc_TypeError, "select takes 8 arguments");
    long long t0 = PyLong_AsLongLong(args[2]), shift = PyLong_AsLongLong(args[4]), bound = PyLong_AsLongLong(args[5]);
    double dt = PyFloat_AsDouble(args[3]);
    if (PyErr_Occurred() || doubles(args[0], &values, -1, 0) < 0) return NULL;
    Py_ssize_t H = values.len / 8 / self->width, row = 8 * self->width;
    long kept = -3, seen = 0;
    if (PyObject_GetBuffer(args[1], &valid, PyBUF_C_CONTIGUOUS) == 0) {
        if (PyObject_GetBuffer(args[6], &times, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) == 0) {
            if (doubles(args[7], &out, H * self->width, 1) == 0) {
                if (H * row == values.len && valid.len == H && times.len == 8 * H) kept = 0;
                else PyErr_Format(PyExc_ValueError, "values [H, %d], valid [H], times [H]", self->width);
                for (Py_ssize_t i = 0; kept >= 0 && i < H; i++) {
                    if (!((const char *)valid.buf)[i]) continue;
                    const double *from = (const double *)values.buf + i * self->width;
                    long long time_ns = t0 + (long long)rint((double)(i + 1) * dt * 1e9) + shift;
                    seen++;
                    if (!all_finite(from, self->width)) kept = -1;
                    else if (time_ns > bound) {
                        memcpy((double *)out.buf + kept * self->width, from, row);
                        ((int64_t *)times.buf)[kept++] = time_ns;
                    }
                }
                PyBuffer_Release(&out);
            }
            PyBuffer_Release(&times);
        }
        PyBuffer_Release(&valid);
    }
    PyBuffer_Release(&values);
    if (kept == -3) return NULL;
    return PyLong_FromLong(kept == 0 && !seen ? -2 : kept);
}

/* clean(values [K, A]): in place, into range, rotations orthonormal */
static PyObject *Checks_clean(Checks *self, PyObject *object) {
    Py_buffer view;
    if (doubles(object, &view, -1, 1) < 0) return NULL;
    double *values = view.buf;
    Py_ssize_t K = view.len / 8 / self->width;
    for (Py_ssize_t k = 0; k < K; k++) {
        double *row = values + k * self->width, r[6];
        for (int i = 0; i < self->width; i++) {
            if (row[i] < self->lower[i]) row[i] = self->lower[i];
            if (row[i] > self->upper[i]) row[i] = self->upper[i];
        }
        if (!self->rotations) continue;
        for (int i = 0; i < 6; i++) r[i] = row[self->rotation[i]];
        orthonormal6(r);
        for (int i = 0; i < 6; i++) row[self->rotation[i]] = r[i];
    }
    PyBuffer_Release(&view);
    Py_RETURN_NONE;
}

/* jump(old [A], new [A]) -> (metres, radians) */
static PyObject *Checks_jump(Checks *self, PyObject *const *args, Py_ssize_t count) {
    double old[MOST_ACTIONS], new[MOST_ACTIONS], square = 0, largest = 0, a[6], b[6], m[9], turn[3], identity[9] = {1, 0, 0, 0, 1, 0, 0, 0, 1};
    if (count != 2) return PyErr_Format(PyExc_TypeError, "jump(old, new)");
    if (read_doubles(args[0], old, self->width) < 0 || read_doubles(args[1], new, self->width) < 0) return NULL;
    for (int i = 0; i < self->positions; i++) {
        double gap = new[self->position[i]] - old[self->position[i]];
        square += gap * gap;
        if (fabs(gap) > largest) largest = fabs(gap);
    }
    if (!self->rotations) return Py_BuildValue("dd", 0.0, largest);
    for (int i = 0; i < 6; i++) a[i] = old[self->rotation[i]], b[i] = new[self->rotation[i]];
    orthonormal6(a), orthonormal6(b);
    turn_of(a, b, m);
    rotation_error(m, identity, turn);
    return Py_BuildValue("dd", sqrt(square), norm3(turn));
}

static PyMethodDef Checks_methods[] = {
    {"check", (PyCFunction)(void (*)(void))Checks_check, METH_FASTCALL, "check(values [K, A], most_turn_rad): 0 fine, 1 bounds, 2 rotation."},
    {"select", (PyCFunction)(void (*)(void))Checks_select, METH_FASTCALL, "Rows of a chunk that can still be reached, see ChunkSchedule."},
    {"clean", (PyCFunction)Checks_clean, METH_O, "clean(values [K, A]) in place."},
    {"jump", (PyCFunction)(void (*)(void))Checks_jump, METH_FASTCALL, "jump(old [A], new [A]) -> (metres, radians)."},
    {NULL, NULL, 0, NULL}};

static PyTypeObject ChecksType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "robopolicy.control._native.Checks",
    .tp_basicsize = sizeof(Checks),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Checks of a chunk's values, see ChunkSchedule.",
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)Checks_init,
    .tp_methods = Checks_methods,
};

/* --------------------------------------------------------------------------------------------------------- module */

static PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "_native", .m_doc = "The scalar work of a control tick.", .m_size = -1, .m_methods = functions};

PyMODINIT_FUNC PyInit__native(void) {
    PyTypeObject *types[] = {&ChainType, &TcpStateType, &FollowerType, &LimiterType, &PathType, &ServoType, &ChecksType};
    static const char *names[] = {"Chain", "TcpState", "Follower", "Limiter", "Path", "Servo", "Checks"};
    PyObject *made = PyModule_Create(&module);
    if (!made) return NULL;
    for (int i = 0; i < 7; i++) {
        if (PyType_Ready(types[i]) < 0 || PyModule_AddObjectRef(made, names[i], (PyObject *)types[i]) < 0) {
            Py_DECREF(made);
            return NULL;
        }
    }
    return made;
}
