// The rules, element by element: `skip` for missed steps, `step` for one with a gradient.
// Names and order follow src/rowwise/rules/, where the formulas are.
#pragma once
#include <cmath>

#include "clock.hpp"
#include "kernels.hpp"

namespace rowwise {
namespace ROWWISE_ISA {  // one copy per instruction set

template <int N>
struct Slots {
    float z[N > 0 ? N : 1];
};

// w -= lr g
struct Sgd {
    static constexpr int slots = 0;
    static constexpr bool moves = false;    // whether a missed step moves the weight by its slots
    static constexpr bool expands = false;  // whether that takes the expansion in y
    static void skip(const Skip& k, const Hyper&, float& w, Slots<0>&) { w *= k.keep; }
    static void step(const Step& s, const Hyper&, float g, float& w, Slots<0>&) {
        w = s.keep * w - s.lr * g;
    }
};

// b = momentum b - lr g;  w += b
struct Momentum {
    static constexpr int slots = 1;
    static constexpr bool moves = true, expands = false;
    static void skip(const Skip& k, const Hyper&, float& w, Slots<1>& s) {
        w = k.keep * w - k.move[0] * s.z[0];
        s.z[0] *= k.decay[0];
    }
    static void step(const Step& s, const Hyper& h, float g, float& w, Slots<1>& slot) {
        float& b = slot.z[0];
        b = h.momentum * b - s.lr * g;
        w = s.keep * w + b;
    }
};

// b = momentum b - lr g;  w += momentum b - lr g
struct Nesterov {
    static constexpr int slots = 1;
    static constexpr bool moves = true, expands = false;
    static void skip(const Skip& k, const Hyper& h, float& w, Slots<1>& s) {
        Momentum::skip(k, h, w, s);
    }
    static void step(const Step& s, const Hyper& h, float g, float& w, Slots<1>& slot) {
        float& b = slot.z[0];
        b = h.momentum * b - s.lr * g;
        w = s.keep * w + (h.momentum * b - s.lr * g);
    }
};

// v = rho v + (1 - rho) g^2;  a = rho a + (1 - rho) g;
// inc = lr g / sqrt(v [- a^2] + epsilon);  [b = momentum b + inc;  w -= b]  or  w -= inc
template <bool HasMomentum, bool Centered>
struct Rmsprop {
    static constexpr int slots = 1 + HasMomentum + Centered;
    static constexpr bool moves = HasMomentum, expands = false;
    static constexpr int b = 1, a = 1 + HasMomentum;
    static void skip(const Skip& k, const Hyper&, float& w, Slots<slots>& s) {
        w *= k.keep;
        if constexpr (HasMomentum) w -= k.move[0] * s.z[b];
        for (int i = 0; i < slots; ++i) s.z[i] *= k.decay[i];
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
        const float increment = s.lr * g / std::sqrt(variance + h.epsilon);
        w *= s.keep;
        if constexpr (HasMomentum) {
            slot.z[b] = h.momentum * slot.z[b] + increment;
            w -= slot.z[b];
        } else {
            w -= increment;
        }
    }
};

// acc += g^2;  w -= lr g / sqrt(acc + epsilon)
struct Adagrad {
    static constexpr int slots = 1;
    static constexpr bool moves = false, expands = false;
    static void skip(const Skip& k, const Hyper&, float& w, Slots<1>&) { w *= k.keep; }
    static void step(const Step& s, const Hyper& h, float g, float& w, Slots<1>& slot) {
        float& acc = slot.z[0];
        acc += g * g;
        w = s.keep * w - s.lr * g / std::sqrt(acc + h.epsilon);
    }
};

// m = beta_1 m + (1 - beta_1) g;  v = beta_2 v + (1 - beta_2) g^2;  w -= alpha m / (sqrt(v) + epsilon)
struct Adam {
    static constexpr int slots = 2;
    static constexpr bool moves = true, expands = true;
    static void skip(const Skip& k, const Hyper& h, float& w, Slots<2>& s) {
        const float scale = 1.0f / (std::sqrt(s.z[1]) + h.epsilon);
        const float y = h.epsilon * scale;
        float sum = k.move[kTerms - 1];
        for (int n = kTerms - 2; n >= 0; --n) sum = sum * y + k.move[n];
        w = k.keep * w - s.z[0] * scale * sum;
        s.z[0] *= k.decay[0];
        s.z[1] *= k.decay[1];
    }
    static void step(const Step& s, const Hyper& h, float g, float& w, Slots<2>& slot) {
        float &m = slot.z[0], &v = slot.z[1];
        m = h.beta_1 * m + h.one_minus_beta_1 * g;
        v = h.beta_2 * v + h.one_minus_beta_2 * (g * g);
        w = s.keep * w - s.alpha * m / (std::sqrt(v) + h.epsilon);
    }
};

}  // namespace ROWWISE_ISA
}  // namespace rowwise
