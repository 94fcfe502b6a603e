// The rules, element by element: `move` and `fade` for missed steps (what they do to the weight,
// and to the slots), `step` for one with a gradient. Names and order follow src/rowwise/rules/,
// where the formulas are.
#pragma once
#include <cmath>
#include <limits>

#include "clock.hpp"
#include "kernels.hpp"

namespace rowwise {
namespace ROWWISE_ISA {  // one copy per instruction set

template <int N>
struct Slots {
    float z[N > 0 ? N : 1];
};

// What most rules have in common: a missed step multiplies each slot by a factor, and slots that
// no gradient has reached yet do not move the weight.
template <int N>
struct Common {
    static constexpr int slots = N;
    static constexpr bool moves = false;    // whether a missed step moves the weight by its slots
    static constexpr bool expands = false;  // whether that takes the expansion in y

    static float untouched(const Skip& k, float w) { return k.keep * w; }
    static void move(const Skip& k, const Hyper&, float& w, const Slots<N>&) { w *= k.keep; }
    static void fade(const Skip& k, const Hyper&, Slots<N>& s) {
        for (int i = 0; i < N; ++i) s.z[i] *= k.decay[i];
    }
};

// Rules whose weight moves along slot 0 over a denominator, by the polynomial in y. A rule says
// what `root` is; it shrinks by h.exact_shrink a step, and epsilon is added to it.
template <class R, int N>
struct Expanding : Common<N> {
    static constexpr bool moves = true, expands = true;

    static void move(const Skip& k, const Hyper& h, float& w, const Slots<N>& s) {
        const float epsilon = h.epsilon * k.epsilon_factor;
        const float scale = 1.0f / (R::root(s) + epsilon);
        const float y = epsilon * scale;
        float sum = k.move[kTerms - 1];
        for (int n = kTerms - 2; n >= 0; --n) sum = sum * y + k.move[n];
        w = k.keep * w - s.z[0] * scale * sum;
    }

    // Whether the polynomial might not hold for some element of a row, and whether it does not for
    // one: where y is above its bound, which is where slot N - 1 is below `limit`.
    static bool may_fail(const Skip& k) { return k.y_max < 1; }
    static float limit(const Skip& k, const Hyper& h) {
        if (!(k.y_max > 0)) return std::numeric_limits<float>::infinity();
        const float root = h.epsilon * k.epsilon_factor * (1 - k.y_max) / k.y_max;
        const float least = R::slot_of(root);
        return least > std::numeric_limits<float>::min() ? least
                                                         : std::numeric_limits<float>::min();
    }
    static bool fails(float limit, const Slots<N>& s) {
        return (s.z[0] != 0) & !(s.z[N - 1] >= limit);
    }

    // What a term of the movement is divided by, where it is replayed.
    static double denominator(double root, double epsilon) { return root + epsilon; }
};

// w -= lr g
struct Sgd : Common<0> {
    static void step(const Step& s, const Hyper&, float g, float& w, Slots<0>&) {
        w = s.keep * w - s.lr * g;
    }
};

// b = momentum b - lr g;  w += b,  or with Nesterov w += momentum b - lr g
template <bool Nesterov>
struct Momentum : Common<1> {
    static constexpr bool moves = true;
    static void move(const Skip& k, const Hyper&, float& w, const Slots<1>& s) {
        w = k.keep * w - k.move[0] * s.z[0];
    }
    static void step(const Step& s, const Hyper& h, float g, float& w, Slots<1>& slot) {
        float& b = slot.z[0];
        b = h.momentum * b - s.lr * g;
        w = s.keep * w + (Nesterov ? h.momentum * b - s.lr * g : b);
    }
};

// b = momentum b + (1 - dampening) g;  w -= lr b,  or with Nesterov w -= lr (g + momentum b)
template <bool Nesterov>
struct TorchMomentum : Momentum<Nesterov> {
    static void step(const Step& s, const Hyper& h, float g, float& w, Slots<1>& slot) {
        float& b = slot.z[0];
        b = h.momentum * b + s.gradient_scale * g;
        w = s.keep * w - s.lr * (Nesterov ? g + h.momentum * b : b);
    }
};

// v = rho v + (1 - rho) g^2;  a = rho a + (1 - rho) g;
// inc = lr g / sqrt(v [- a^2] + epsilon);  [b = momentum b + inc;  w -= b]  or  w -= inc
// in PyTorch's form: inc = g / (sqrt(v [- a^2]) + epsilon);  b likewise;  w -= lr b  or  lr inc
template <bool HasMomentum, bool Centered, bool TorchForm>
struct Rmsprop : Common<1 + HasMomentum + Centered> {
    static constexpr int slots = 1 + HasMomentum + Centered;
    static constexpr bool moves = HasMomentum;
    static constexpr int b = 1, a = 1 + HasMomentum;
    static void move(const Skip& k, const Hyper&, float& w, const Slots<slots>& s) {
        w *= k.keep;
        if constexpr (HasMomentum) w -= k.move[0] * s.z[b];
    }
    static void step(const Step& s, const Hyper& h, float g, float& w, Slots<slots>& slot) {
        float& v = slot.z[0];
        v = h.rho * v + h.one_minus_rho * (g * g);
        float variance = v;
        if constexpr (Centered) {
            slot.z[a] = h.rho * slot.z[a] + h.one_minus_rho * g;
            const float rest = variance - slot.z[a] * slot.z[a];
            variance = rest > 0 ? rest : 0;  // below zero by rounding alone
        }
        float increment = TorchForm ? g / (std::sqrt(variance) + h.epsilon)
                                    : s.lr * g / std::sqrt(variance + h.epsilon);
        w *= s.keep;
        if constexpr (HasMomentum) {
            slot.z[b] = h.momentum * slot.z[b] + increment;
            increment = slot.z[b];
        }
        w -= TorchForm ? s.lr * increment : increment;
    }
};

// acc += g^2;  w -= lr g / sqrt(acc + epsilon),  in PyTorch's form lr g / (sqrt(acc) + epsilon)
template <bool TorchForm>
struct Adagrad : Common<1> {
    static void fade(const Skip&, const Hyper&, Slots<1>&) {}
    static void step(const Step& s, const Hyper& h, float g, float& w, Slots<1>& slot) {
        float& acc = slot.z[0];
        acc += g * g;
        w = s.keep * w -
            s.lr * g / (TorchForm ? std::sqrt(acc) + h.epsilon : std::sqrt(acc + h.epsilon));
    }
};

// v = rho v + (1 - rho) g^2;  u = g sqrt(d + epsilon) / sqrt(v + epsilon);
// d = rho d + (1 - rho) u^2;  w -= lr u
struct Adadelta : Common<2> {
    static void step(const Step& s, const Hyper& h, float g, float& w, Slots<2>& slot) {
        float &v = slot.z[0], &d = slot.z[1];
        v = h.rho * v + h.one_minus_rho * (g * g);
        const float u = std::sqrt(d + h.epsilon) * g / std::sqrt(v + h.epsilon);
        d = h.rho * d + h.one_minus_rho * (u * u);
        w = s.keep * w - s.lr * u;
    }
};

// m = beta_1 m + (1 - beta_1) g;  v = beta_2 v + (1 - beta_2) g^2;
// w -= alpha m / (sqrt(v) + epsilon_t);  amsgrad: the largest v so far in place of v
template <bool Amsgrad>
struct Adam : Expanding<Adam<Amsgrad>, 2 + Amsgrad> {
    static constexpr int slots = 2 + Amsgrad;
    static float root(const Slots<slots>& s) { return std::sqrt(s.z[slots - 1]); }
    static float slot_of(float root) { return root * root; }
    static void step(const Step& s, const Hyper& h, float g, float& w, Slots<slots>& slot) {
        float &m = slot.z[0], &v = slot.z[1];
        m = h.beta_1 * m + h.one_minus_beta_1 * g;
        v = h.beta_2 * v + h.one_minus_beta_2 * (g * g);
        if constexpr (Amsgrad) slot.z[2] = slot.z[2] > v ? slot.z[2] : v;
        w = s.keep * w - s.scale * m / (root(slot) + s.epsilon);
    }
};

// m, v as Adam;  w -= (alpha m + alpha_g g) / (sqrt(v) + epsilon_t)
struct Nadam : Adam<false> {
    static void step(const Step& s, const Hyper& h, float g, float& w, Slots<2>& slot) {
        float &m = slot.z[0], &v = slot.z[1];
        m = h.beta_1 * m + h.one_minus_beta_1 * g;
        v = h.beta_2 * v + h.one_minus_beta_2 * (g * g);
        w = s.keep * w - (s.scale * m + s.gradient_scale * g) / (root(slot) + s.epsilon);
    }
};

// m = beta_1 m + (1 - beta_1) g;  u = max(beta_2 u, |g|);  w -= alpha m / (u + epsilon)
struct Adamax : Expanding<Adamax, 2> {
    static float root(const Slots<2>& s) { return s.z[1]; }
    static float slot_of(float root) { return root; }
    static void step(const Step& s, const Hyper& h, float g, float& w, Slots<2>& slot) {
        float &m = slot.z[0], &u = slot.z[1];
        m = h.beta_1 * m + h.one_minus_beta_1 * g;
        const float size = std::fabs(g), before = h.beta_2 * u;
        u = before > size ? before : size;
        w = s.keep * w - s.scale * m / (u + h.epsilon);
    }
};

// m as Adamax;  u = max(beta_2 u, |g| + epsilon);  w -= alpha m / u
struct TorchAdamax : Expanding<TorchAdamax, 2> {
    static float root(const Slots<2>& s) { return s.z[1]; }
    static void move(const Skip& k, const Hyper& h, float& w, const Slots<2>& s) {
        const float u = s.z[1] > h.epsilon ? s.z[1] : h.epsilon;  // not 0, whatever was loaded
        w = k.keep * w - s.z[0] / u * k.move[0];
    }
    static void fade(const Skip& k, const Hyper& h, Slots<2>& s) {
        s.z[0] *= k.decay[0];
        const float u = s.z[1] * k.decay[1];
        if (k.missed) s.z[1] = u > h.epsilon ? u : h.epsilon;
    }
    // u stops falling at epsilon: a geometric sum only if that comes after all that matters.
    static bool may_fail(const Skip& k) { return k.missed != 0; }
    static float limit(const Skip& k, const Hyper& h) {
        return h.epsilon / (k.decay[1] > h.window_shrink ? k.decay[1] : h.window_shrink);
    }
    static double denominator(double root, double epsilon) {
        return root > epsilon ? root : epsilon;
    }
    static void step(const Step& s, const Hyper& h, float g, float& w, Slots<2>& slot) {
        float &m = slot.z[0], &u = slot.z[1];
        m = h.beta_1 * m + h.one_minus_beta_1 * g;
        const float size = std::fabs(g) + h.epsilon, before = h.beta_2 * u;
        u = before > size ? before : size;
        w = s.keep * w - s.scale * m / u;
    }
};

inline float sign(float x) { return static_cast<float>((x > 0) - (x < 0)); }

// w -= lr sign(beta_1 m + (1 - beta_1) g);  m = beta_2 m + (1 - beta_2) g
struct Lion : Common<1> {
    static constexpr bool moves = true;
    static void move(const Skip& k, const Hyper& h, float& w, const Slots<1>& s) {
        w = k.keep * w - k.move[0] * sign(h.beta_1 * s.z[0]);
    }
    // However small m gets, it keeps its sign: more than half of the smallest number is rounded to it.
    static void fade(const Skip& k, const Hyper& h, Slots<1>& s) {
        const float m = s.z[0] * k.decay[0];
        const float least = sign(s.z[0]) * std::numeric_limits<float>::denorm_min();
        s.z[0] = (m == 0) & (h.beta_2 > 0.5f) ? least : m;
    }
    static void step(const Step& s, const Hyper& h, float g, float& w, Slots<1>& slot) {
        float& m = slot.z[0];
        w = s.keep * w - s.lr * sign(h.beta_1 * m + h.one_minus_beta_1 * g);
        m = h.beta_2 * m + h.one_minus_beta_2 * g;
    }
};

// n = acc + g^2;  z += g - (n^p - acc^p) / lr w;  acc = n;
// w = (clip(z, -l1, l1) - z) / (n^p / lr + 2 l2 + beta / lr),  p = -learning_rate_power
struct Ftrl : Common<2> {
    static constexpr bool moves = true;
    static float power(const Hyper& h, float acc) {
        return h.power == 0.5f ? std::sqrt(acc) : std::pow(acc, h.power);
    }
    static float weight(const Hyper& h, float powered, float z, float lr) {
        const float clipped = z < -h.l1 ? -h.l1 : z > h.l1 ? h.l1 : z;
        return (clipped - z) / (powered / lr + h.two_l2 + h.beta / lr);
    }
    // After any step the weight is what z, acc and that step's learning rate say.
    static float untouched(const Skip& k, float w) { return k.missed ? 0.0f : w; }
    static void move(const Skip& k, const Hyper& h, float& w, const Slots<2>& s) {
        if (k.missed) w = weight(h, power(h, s.z[0]), s.z[1], k.rate);
    }
    static void fade(const Skip&, const Hyper&, Slots<2>&) {}
    static void step(const Step& s, const Hyper& h, float g, float& w, Slots<2>& slot) {
        float &acc = slot.z[0], &z = slot.z[1];
        const float before = power(h, acc);
        acc += g * g;
        const float after = power(h, acc);
        z += g - (after - before) / s.lr * (s.keep * w);
        w = weight(h, after, z, s.lr);
    }
};

}  // namespace ROWWISE_ISA
}  // namespace rowwise
