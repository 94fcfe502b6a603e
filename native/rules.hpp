// The rules, element by element: `lag_weight` and `lag_slots` for missed steps, `step` for one with
// a gradient. Names and order follow src/rowwise/rules/, where the formulas are. Compiles for a GPU
// as well, where division and root must be IEEE's and no multiply-add fused, for the same bits.
#pragma once
#include <cmath>

#include "plain.hpp"

namespace rowwise {
namespace ROWWISE_ISA {  // one copy per instruction set

constexpr float kSmallestNormal = 0x1p-126f, kSmallest = 0x1p-149f;

template <int N>
struct Slots {
    float z[N > 0 ? N : 1];
};

// What most rules have in common: a missed step multiplies each slot by a factor, and slots that
// no gradient has reached yet do not move the weight, which `lag_untrained` then leaves out.
template <int N>
struct Common {
    static constexpr int slots = N;
    static constexpr bool moves = false;      // whether a missed step moves the weight by its slots
    static constexpr bool expands = false;    // whether that takes the expansion in y
    static constexpr bool row_slots = false;  // whether a slot is one number a row
    static constexpr bool forgets = false;  // whether a missed step sets the weight by slots alone

    ROWWISE_HD static float lag_untrained(const LaggedUpdate& k, float w) {
        return k.decay_factor * w;
    }
    ROWWISE_HD static void lag_weight(const LaggedUpdate& k, const Hyperparameters&, float& w,
                                      const Slots<N>&) {
        w *= k.decay_factor;
    }
    ROWWISE_HD static void lag_slots(const LaggedUpdate& k, const Hyperparameters&, Slots<N>& s) {
        for (int i = 0; i < N; ++i) s.z[i] *= k.slot_decay[i];
    }
};

// Rules whose weight moves along slot 0 over a denominator, by the polynomial in y. A rule says
// what `root` is; it shrinks by h.exact_shrink a step, and epsilon is added to it.
template <class R, int N>
struct Expanding : Common<N> {
    static constexpr bool moves = true, expands = true;

    ROWWISE_HD static void lag_weight(const LaggedUpdate& k, const Hyperparameters& h, float& w,
                                      const Slots<N>& s) {
        const float epsilon = h.epsilon * k.epsilon_factor;
        const float scale = 1.0f / (R::root(s) + epsilon);
        const float y = epsilon * scale;
        float sum = k.coefficients[kTerms - 1];
        for (int n = kTerms - 2; n >= 0; --n) sum = sum * y + k.coefficients[n];
        w = k.decay_factor * w - s.z[0] * scale * sum;
    }

    // Whether the polynomial might not hold for some element of a row, and whether it does not for
    // one: where y is above its bound, which is where slot N - 1 is below `limit`.
    ROWWISE_HD static bool may_fail(const LaggedUpdate& k) { return k.y_max < 1; }
    ROWWISE_HD static float limit(const LaggedUpdate& k, const Hyperparameters& h) {
        if (!(k.y_max > 0)) return INFINITY;
        const float root = h.epsilon * k.epsilon_factor * (1 - k.y_max) / k.y_max;
        const float least = R::slot_of(root);
        return least > kSmallestNormal ? least : kSmallestNormal;
    }
    ROWWISE_HD static bool fails(float limit, const Slots<N>& s) {
        return (s.z[0] != 0) & !(s.z[N - 1] >= limit);
    }

    // What a term of the movement is divided by, where it is replayed.
    template <class Number>
    ROWWISE_HD static Number denominator(Number root, Number epsilon) {
        return root + epsilon;
    }
};

// w -= lr g
struct Sgd : Common<0> {
    ROWWISE_HD static void step(const Step& s, const Hyperparameters&, float g, float& w,
                                Slots<0>&) {
        w = s.decay_factor * w - s.learning_rate * g;
    }
};

// b = momentum b - lr g;  w += b,  or with Nesterov w += momentum b - lr g
template <bool Nesterov>
struct Momentum : Common<1> {
    static constexpr bool moves = true;
    ROWWISE_HD static void lag_weight(const LaggedUpdate& k, const Hyperparameters&, float& w,
                                      const Slots<1>& s) {
        w = k.decay_factor * w - k.coefficients[0] * s.z[0];
    }
    ROWWISE_HD static void step(const Step& s, const Hyperparameters& h, float g, float& w,
                                Slots<1>& slot) {
        float& b = slot.z[0];
        b = h.momentum * b - s.learning_rate * g;
        w = s.decay_factor * w + (Nesterov ? h.momentum * b - s.learning_rate * g : b);
    }
};

// b = momentum b + (1 - dampening) g;  w -= lr b,  or with Nesterov w -= lr (g + momentum b)
template <bool Nesterov>
struct TorchMomentum : Momentum<Nesterov> {
    ROWWISE_HD static void step(const Step& s, const Hyperparameters& h, float g, float& w,
                                Slots<1>& slot) {
        float& b = slot.z[0];
        b = h.momentum * b + s.gradient_scale * g;
        w = s.decay_factor * w - s.learning_rate * (Nesterov ? g + h.momentum * b : b);
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
    ROWWISE_HD static void lag_weight(const LaggedUpdate& k, const Hyperparameters&, float& w,
                                      const Slots<slots>& s) {
        w *= k.decay_factor;
        if constexpr (HasMomentum) w -= k.coefficients[0] * s.z[b];
    }
    ROWWISE_HD static void step(const Step& s, const Hyperparameters& h, float g, float& w,
                                Slots<slots>& slot) {
        float& v = slot.z[0];
        v = h.rho * v + h.one_minus_rho * (g * g);
        float variance = v;
        if constexpr (Centered) {
            slot.z[a] = h.rho * slot.z[a] + h.one_minus_rho * g;
            const float rest = variance - slot.z[a] * slot.z[a];
            variance = rest > 0 ? rest : 0;  // below zero by rounding alone
        }
        float increment = TorchForm ? g / (std::sqrt(variance) + h.epsilon)
                                    : s.learning_rate * g / std::sqrt(variance + h.epsilon);
        w *= s.decay_factor;
        if constexpr (HasMomentum) {
            slot.z[b] = h.momentum * slot.z[b] + increment;
            increment = slot.z[b];
        }
        w -= TorchForm ? s.learning_rate * increment : increment;
    }
};

// acc += g^2;  w -= lr g / sqrt(acc + epsilon),  in PyTorch's form lr g / (sqrt(acc) + epsilon)
template <bool TorchForm>
struct Adagrad : Common<1> {
    ROWWISE_HD static void lag_slots(const LaggedUpdate&, const Hyperparameters&, Slots<1>&) {}
    ROWWISE_HD static void step(const Step& s, const Hyperparameters& h, float g, float& w,
                                Slots<1>& slot) {
        float& acc = slot.z[0];
        acc += g * g;
        w = s.decay_factor * w -
            s.learning_rate * g /
                (TorchForm ? std::sqrt(acc) + h.epsilon : std::sqrt(acc + h.epsilon));
    }
};

// acc += mean of the row's g^2;  w -= lr / (sqrt(acc) + epsilon) g
struct RowwiseAdagrad : Common<1> {
    static constexpr bool row_slots = true;
    ROWWISE_HD static void lag_slots(const LaggedUpdate&, const Hyperparameters&, Slots<1>&) {}
    // Steps the row's slot; returns what its gradients are multiplied by.
    ROWWISE_HD static float step_row(const Step& s, const Hyperparameters& h, float mean_square,
                                     Slots<1>& slot) {
        float& acc = slot.z[0];
        acc += mean_square;
        return s.learning_rate / (std::sqrt(acc) + h.epsilon);
    }
    ROWWISE_HD static void step(const Step& s, float rate, float g, float& w) {
        w = s.decay_factor * w - rate * g;
    }
};

// v = rho v + (1 - rho) g^2;  u = g sqrt(d + epsilon) / sqrt(v + epsilon);
// d = rho d + (1 - rho) u^2;  w -= lr u
struct Adadelta : Common<2> {
    ROWWISE_HD static void step(const Step& s, const Hyperparameters& h, float g, float& w,
                                Slots<2>& slot) {
        float &v = slot.z[0], &d = slot.z[1];
        v = h.rho * v + h.one_minus_rho * (g * g);
        const float u = std::sqrt(d + h.epsilon) * g / std::sqrt(v + h.epsilon);
        d = h.rho * d + h.one_minus_rho * (u * u);
        w = s.decay_factor * w - s.learning_rate * u;
    }
};

// m = beta_1 m + (1 - beta_1) g;  v = beta_2 v + (1 - beta_2) g^2;
// w -= alpha m / (sqrt(v) + epsilon_t);  amsgrad: the largest v so far in place of v
template <bool Amsgrad>
struct Adam : Expanding<Adam<Amsgrad>, 2 + Amsgrad> {
    static constexpr int slots = 2 + Amsgrad;
    ROWWISE_HD static float root(const Slots<slots>& s) { return std::sqrt(s.z[slots - 1]); }
    ROWWISE_HD static float slot_of(float root) { return root * root; }
    ROWWISE_HD static void step(const Step& s, const Hyperparameters& h, float g, float& w,
                                Slots<slots>& slot) {
        float &m = slot.z[0], &v = slot.z[1];
        m = h.beta_1 * m + h.one_minus_beta_1 * g;
        v = h.beta_2 * v + h.one_minus_beta_2 * (g * g);
        if constexpr (Amsgrad) slot.z[2] = slot.z[2] > v ? slot.z[2] : v;
        w = s.decay_factor * w - s.scale * m / (root(slot) + s.epsilon);
    }
};

// m, v as Adam;  w -= (alpha m + alpha_g g) / (sqrt(v) + epsilon_t)
struct Nadam : Adam<false> {
    ROWWISE_HD static void step(const Step& s, const Hyperparameters& h, float g, float& w,
                                Slots<2>& slot) {
        float &m = slot.z[0], &v = slot.z[1];
        m = h.beta_1 * m + h.one_minus_beta_1 * g;
        v = h.beta_2 * v + h.one_minus_beta_2 * (g * g);
        w = s.decay_factor * w - (s.scale * m + s.gradient_scale * g) / (root(slot) + s.epsilon);
    }
};

// m = beta_1 m + (1 - beta_1) g;  u = max(beta_2 u, |g|);  w -= alpha m / (u + epsilon)
struct Adamax : Expanding<Adamax, 2> {
    ROWWISE_HD static float root(const Slots<2>& s) { return s.z[1]; }
    ROWWISE_HD static float slot_of(float root) { return root; }
    ROWWISE_HD static void step(const Step& s, const Hyperparameters& h, float g, float& w,
                                Slots<2>& slot) {
        float &m = slot.z[0], &u = slot.z[1];
        m = h.beta_1 * m + h.one_minus_beta_1 * g;
        const float size = std::fabs(g), before = h.beta_2 * u;
        u = before > size ? before : size;
        w = s.decay_factor * w - s.scale * m / (u + h.epsilon);
    }
};

// m as Adamax;  u = max(beta_2 u, |g| + epsilon);  w -= alpha m / u
struct TorchAdamax : Expanding<TorchAdamax, 2> {
    ROWWISE_HD static float root(const Slots<2>& s) { return s.z[1]; }
    ROWWISE_HD static void lag_weight(const LaggedUpdate& k, const Hyperparameters& h, float& w,
                                      const Slots<2>& s) {
        const float u = s.z[1] > h.epsilon ? s.z[1] : h.epsilon;  // not 0, whatever was loaded
        w = k.decay_factor * w - s.z[0] / u * k.coefficients[0];
    }
    ROWWISE_HD static void lag_slots(const LaggedUpdate& k, const Hyperparameters& h, Slots<2>& s) {
        s.z[0] *= k.slot_decay[0];
        const float u = s.z[1] * k.slot_decay[1];
        if (k.missed) s.z[1] = u > h.epsilon ? u : h.epsilon;
    }
    // u stops falling at epsilon: a geometric sum only if that comes after all that matters.
    ROWWISE_HD static bool may_fail(const LaggedUpdate& k) { return k.missed != 0; }
    ROWWISE_HD static float limit(const LaggedUpdate& k, const Hyperparameters& h) {
        return h.epsilon /
               (k.slot_decay[1] > h.horizon_shrink ? k.slot_decay[1] : h.horizon_shrink);
    }
    template <class Number>
    ROWWISE_HD static Number denominator(Number root, Number epsilon) {
        return root > epsilon ? root : epsilon;
    }
    ROWWISE_HD static void step(const Step& s, const Hyperparameters& h, float g, float& w,
                                Slots<2>& slot) {
        float &m = slot.z[0], &u = slot.z[1];
        m = h.beta_1 * m + h.one_minus_beta_1 * g;
        const float size = std::fabs(g) + h.epsilon, before = h.beta_2 * u;
        u = before > size ? before : size;
        w = s.decay_factor * w - s.scale * m / u;
    }
};

ROWWISE_HD inline float sign(float x) { return static_cast<float>((x > 0) - (x < 0)); }

// w -= lr sign(beta_1 m + (1 - beta_1) g);  m = beta_2 m + (1 - beta_2) g
struct Lion : Common<1> {
    static constexpr bool moves = true;
    ROWWISE_HD static void lag_weight(const LaggedUpdate& k, const Hyperparameters& h, float& w,
                                      const Slots<1>& s) {
        w = k.decay_factor * w - k.coefficients[0] * sign(h.beta_1 * s.z[0]);
    }
    // However small m gets, it keeps its sign: more than half of the smallest number is rounded to
    // it.
    ROWWISE_HD static void lag_slots(const LaggedUpdate& k, const Hyperparameters& h, Slots<1>& s) {
        const float m = s.z[0] * k.slot_decay[0];
        const float least = sign(s.z[0]) * kSmallest;
        s.z[0] = ((m == 0) & (h.beta_2 > 0.5f)) ? least : m;
    }
    ROWWISE_HD static void step(const Step& s, const Hyperparameters& h, float g, float& w,
                                Slots<1>& slot) {
        float& m = slot.z[0];
        w = s.decay_factor * w - s.learning_rate * sign(h.beta_1 * m + h.one_minus_beta_1 * g);
        m = h.beta_2 * m + h.one_minus_beta_2 * g;
    }
};

// n = acc + g^2;  z += g - (n^p - acc^p) / lr w;  acc = n;
// w = (clip(z, -l1, l1) - z) / (n^p / lr + 2 l2 + beta / lr),  p = -learning_rate_power
struct Ftrl : Common<2> {
    static constexpr bool moves = true, forgets = true;
    ROWWISE_HD static float power(const Hyperparameters& h, float acc) {
        return h.power == 0.5f ? std::sqrt(acc) : std::pow(acc, h.power);
    }
    ROWWISE_HD static float weight(const Hyperparameters& h, float powered, float z, float lr) {
        const float clipped = z < -h.l1 ? -h.l1 : z > h.l1 ? h.l1 : z;
        return (clipped - z) / (powered / lr + h.two_l2 + h.beta / lr);
    }
    // After any step the weight is what z, acc and that step's learning rate say.
    ROWWISE_HD static float lag_untrained(const LaggedUpdate& k, float w) {
        return k.missed ? 0.0f : w;
    }
    ROWWISE_HD static void lag_weight(const LaggedUpdate& k, const Hyperparameters& h, float& w,
                                      const Slots<2>& s) {
        if (k.missed) w = weight(h, power(h, s.z[0]), s.z[1], k.last_scale);
    }
    ROWWISE_HD static void lag_slots(const LaggedUpdate&, const Hyperparameters&, Slots<2>&) {}
    ROWWISE_HD static void step(const Step& s, const Hyperparameters& h, float g, float& w,
                                Slots<2>& slot) {
        float &acc = slot.z[0], &z = slot.z[1];
        const float before = power(h, acc);
        acc += g * g;
        const float after = power(h, acc);
        z += g - (after - before) / s.learning_rate * (s.decay_factor * w);
        w = weight(h, after, z, s.learning_rate);
    }
};

}  // namespace ROWWISE_ISA
}  // namespace rowwise
