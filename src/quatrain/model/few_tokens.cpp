// A few new tokens, one or more of each sequence, through one layer: every weight is read once, as it is stored.
//
// All threads run the same code. A matrix is divided by outputs; what is small (norms, the router) each
// thread computes for itself, which costs less than to wait. Where one reads what others wrote, all
// meet. States are float32 whatever the weights are.

#include "products.cpp"

#include <omp.h>

#include <atomic>
#include <cmath>
#include <thread>
#include <vector>

// Kinds of `Stored`, in the order of few_tokens.py.
enum { F32, BF16, F32_COLUMNS, BF16_COLUMNS, INT8, NF4, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K };

// A matrix [outputs, inputs], or a stack of them; `next` continues its outputs. A and B are the factors
// of an adapter, [inputs, rank] and [rank, all outputs], or stacks of them.
struct Stored {
    int64_t kind, outputs, inputs, stride;
    const u8* data;
    const u8* scales;
    const float *nested, *map, *values;
    const float* bias;
    const Stored* next;
    const float *a, *b;
    int64_t rank;
    float offset, scale;
};

struct Layer {
    int64_t width, heads, kv_heads, head, experts, chosen, inner, shared_inner, rope, qk_norm, chunk;
    float eps, floor_scale, attn_scale;  // attn_scale 0: no temperature
    const float *input_norm, *post_norm, *router, *router_a, *router_b;
    int64_t router_rank;
    float router_scale;
    Stored q, k, v, o, gate, up, down, gate_up, expert_down;
};

struct Meeting {  // a barrier that spins: the others are about to come
    std::atomic<int> here{0}, round{0};
    void wait(int all) {
        int now = round.load();
        if (here.fetch_add(1) + 1 == all) {
            here.store(0);
            round.fetch_add(1);
            return;
        }
        for (int spins = 0; round.load() == now; spins++)
            if (spins > 2000) std::this_thread::yield();
    }
};

template <class Source>
static void some(const Source& source, int64_t row, int64_t first, int64_t last, int64_t width,
                 const float* x, int64_t n, float* out, int64_t stride, float* room) {
    some_rows(source, row + first, last - first, width, x, n, out + first, stride, room);
}

static void some_outputs(const Stored& w, int64_t group, int64_t first, int64_t last, const float* x,
                         int64_t n, float* out, int64_t stride, float* room) {
    int64_t row = group * w.outputs, I = w.inputs;
    switch (w.kind) {
        case F32: some(FromPlain<float>{(const float*)w.data, w.stride}, row, first, last, I, x, n, out, stride, room); break;
        case BF16: some(FromPlain<uint16_t>{(const uint16_t*)w.data, w.stride}, row, first, last, I, x, n, out, stride, room); break;
        case F32_COLUMNS:
            columns_times((const float*)w.data + group * I * w.stride, w.stride, first, last, I, x, n, out, stride);
            break;
        case BF16_COLUMNS:
            columns_times((const uint16_t*)w.data + group * I * w.stride, w.stride, first, last, I, x, n, out, stride);
            break;
        case INT8: some(FromInt8{(const int8_t*)w.data, (const float*)w.scales, I}, row, first, last, I, x, n, out, stride, room); break;
        case NF4: some(FromNf4{w.data, w.scales, w.nested, w.offset, w.map, w.values, I / 64}, row, first, last, I, x, n, out, stride, room); break;
#define BLOCKED(NAME, KIND) \
        case NAME: some(FromBlocks<KIND>{w.data, w.stride}, row, first, last, I, x, n, out, stride, room); break;
        BLOCKED(Q8_0, q8_0) BLOCKED(Q4_0, q4_0) BLOCKED(Q4_1, q4_1) BLOCKED(Q5_0, q5_0) BLOCKED(Q5_1, q5_1)
        BLOCKED(Q4_K, q4_k) BLOCKED(Q5_K, q5_k) BLOCKED(Q6_K, q6_k)
    }
}

struct Thread {  // one of those that compute a layer
    int number, all;
    std::vector<float> room, inner;
    // The part of `count` outputs that is this thread's: a multiple of 16, but for the last.
    void part(int64_t count, int64_t* first, int64_t* last) const {
        int64_t each = (count + 16 * all - 1) / (16 * all) * 16;
        *first = each * number < count ? each * number : count;
        *last = *first + each < count ? *first + each : count;
    }
};

static int64_t outputs_of(const Stored& w) {
    int64_t total = 0;
    for (const Stored* one = &w; one; one = one->next) total += one->outputs;
    return total;
}

// Outputs `first` to `last` of a weight, an adapter and a bias among it: out [n, all outputs].
static void product(const Stored& w, int64_t group, int64_t first, int64_t last, const float* x,
                    int64_t n, float* out, int64_t stride, Thread& t) {
    int64_t begin = 0, all = outputs_of(w);
    if ((int64_t)t.room.size() < MOST_ROWS_OF_A_TILE * w.inputs + 256)
        t.room.resize(MOST_ROWS_OF_A_TILE * w.inputs + 256);
    for (const Stored* one = &w; one; begin += one->outputs, one = one->next) {
        int64_t from = first > begin ? first - begin : 0;
        int64_t to = last - begin < one->outputs ? last - begin : one->outputs;
        if (from < to) some_outputs(*one, group, from, to, x, n, out + begin, stride, t.room.data());
    }
    if (w.bias)
        for (int64_t r = 0; r < n; r++)
            for (int64_t o = first; o < last; o++) out[r * stride + o] += w.bias[o];
    if (w.rank) {
        t.inner.resize(n * w.rank + n * (last - first));
        float *inner = t.inner.data(), *added = inner + n * w.rank;
        columns_times(w.a + group * w.inputs * w.rank, w.rank, 0, w.rank, w.inputs, x, n, inner, w.rank);
        for (int64_t i = 0; i < n * w.rank; i++) inner[i] *= w.scale;
        columns_times(w.b + group * w.rank * all + first, all, 0, last - first, w.rank, inner, n, added,
                      last - first);
        for (int64_t r = 0; r < n; r++)
            for (int64_t o = first; o < last; o++) out[r * stride + o] += added[r * (last - first) + o - first];
    }
}

static void normalise(const float* x, const float* weight, int64_t n, int64_t width, float eps, float* out) {
    for (int64_t r = 0; r < n; r++, x += width, out += width) {
        float s = 1.0f / __builtin_sqrtf(dot(x, x, width) / (float)width + eps);
        for (int64_t i = 0; i < width; i++) out[i] = x[i] * s * (weight ? weight[i] : 1.0f);
    }
}

// silu(gate) times up, of `count` numbers.
static void gated(const float* gate, const float* up, int64_t count, float* out) {
    int64_t i = 0;
    for (; i + W <= count; i += W) {
        lanes v = load(gate + i);
        store(out + i, v / (exp_of(-v) + 1.0f) * load(up + i));
    }
    for (; i < count; i++) out[i] = gate[i] / (1.0f + __builtin_expf(-gate[i])) * up[i];
}

// Numbers to weights that sum to 1.
static void softmax(float* own, int64_t count) {
    float most = -__builtin_inff(), sum = 0;
    for (int64_t i = 0; i < count; i++) most = own[i] > most ? own[i] : most;
    int64_t i = 0;
    lanes sums = {};
    for (; i + W <= count; i += W) {
        lanes weight = exp_of(load(own + i) - most);
        store(own + i, weight);
        sums += weight;
    }
    for (; i < count; i++) sum += own[i] = __builtin_expf(own[i] - most);
    sum += sum_of(sums);
    for (i = 0; i < count; i++) own[i] /= sum;
}

template <class T>
static void layer_step(const Layer& layer, float* x, int64_t B, const float* turns, const int64_t* at,
                       T* keys, T* values, const int32_t* const* tables, const int64_t* begins,
                       int64_t size, int threads) {
    const int64_t H = layer.width, N = layer.heads, K = layer.kv_heads, D = layer.head, G = N / K;
    const int64_t E = layer.experts, C = layer.chosen, R = B * C, F = layer.inner, M = layer.shared_inner;
    std::vector<float> q(B * N * D), k(B * K * D), v(B * K * D), mean(B * N * D), y(B * H);
    std::vector<float> shared(B * M), up(B * M), routed(R * F), both(R * 2 * F), result(R * H);
    Meeting meeting;
#pragma omp parallel num_threads(threads)
    {
        Thread t;
        t.number = omp_get_thread_num();
        t.all = omp_get_num_threads();  // perhaps fewer than asked for
        int64_t first, last;
        std::vector<float> h(B * H);
        normalise(x, layer.input_norm, B, H, layer.eps, h.data());
        t.part(N * D, &first, &last);
        product(layer.q, 0, first, last, h.data(), B, q.data(), N * D, t);
        t.part(K * D, &first, &last);
        product(layer.k, 0, first, last, h.data(), B, k.data(), K * D, t);
        product(layer.v, 0, first, last, h.data(), B, v.data(), K * D, t);
        meeting.wait(t.all);
        // Where a head's keys of token b's block begin, of the block that holds position s.
        auto block_of = [&](int64_t b, int64_t kh, int64_t s) {
            return (tables[b][s / size - begins[b]] * K + kh) * size * D;
        };
        auto turned = [&](float* in, const float* turn) {
            if (layer.rope)
                for (int64_t d = 0; d < D; d += 2) {
                    float re = in[d], im = in[d + 1], c = turn[d], s = turn[d + 1];
                    in[d] = re * c - im * s;
                    in[d + 1] = re * s + im * c;
                }
            if (layer.qk_norm) normalise(in, nullptr, 1, D, layer.eps, in);
        };
        for (int64_t pair = t.number; pair < B * K; pair += t.all) {
            int64_t b = pair / K, kh = pair % K, to = block_of(b, kh, at[b]) + at[b] % size * D;
            float *key = k.data() + pair * D, *value = v.data() + pair * D;
            turned(key, turns + b * D);
            for (int64_t d = 0; d < D; d++) put(keys + to + d, key[d]), put(values + to + d, value[d]);
        }
        meeting.wait(t.all);  // a token sees those of its sequence that came with it
        std::vector<float> scores, one(D);
        for (int64_t pair = t.number; pair < B * K; pair += t.all) {  // a head of keys and its queries
            int64_t b = pair / K, kh = pair % K;
            int64_t start = layer.chunk ? at[b] / layer.chunk * layer.chunk : 0, S = at[b] + 1 - start;
            scores.resize(G * S);
            float scale = 1.0f / __builtin_sqrtf((float)D);
            if (layer.attn_scale != 0)
                scale *= 1.0f + layer.attn_scale * log1pf(floorf((float)(at[b] + 1) / layer.floor_scale));
            float* mine = q.data() + (b * N + kh * G) * D;
            for (int64_t g = 0; g < G; g++) {
                turned(mine + g * D, turns + b * D);
                for (int64_t d = 0; d < D; d++) mine[g * D + d] *= scale;
            }
            auto seen = [&](const T* numbers, auto&& visit) {  // those of each position
                for (int64_t s = start; s <= at[b];) {
                    int64_t in = s % size, last = size < in + at[b] + 1 - s ? size : in + at[b] + 1 - s;
                    const T* here = numbers + block_of(b, kh, s);
                    const T* next = s - in + size <= at[b] ? numbers + block_of(b, kh, s - in + size) : here;
                    for (; in < last; in++, s++) {
                        for (int64_t d = 0; d < D; d += 64 / sizeof(T)) __builtin_prefetch(next + in * D + d);
                        visit(s - start, widened(here + in * D, D, one.data()));
                    }
                }
            };
            seen(keys, [&](int64_t s, const float* other) {
                for (int64_t g = 0; g < G; g++) scores[g * S + s] = dot(mine + g * D, other, D);
            });
            float* out = mean.data() + (b * N + kh * G) * D;
            for (int64_t g = 0; g < G; g++) softmax(scores.data() + g * S, S);
            seen(values, [&](int64_t s, const float* other) {
                for (int64_t g = 0; g < G; g++) {
                    float weight = scores[g * S + s];
                    for (int64_t d = 0; d < D; d++) out[g * D + d] += weight * other[d];
                }
            });
        }
        meeting.wait(t.all);
        t.part(H, &first, &last);
        product(layer.o, 0, first, last, mean.data(), B, y.data(), H, t);
        for (int64_t r = 0; r < B; r++)
            for (int64_t i = first; i < last; i++) x[r * H + i] += y[r * H + i];
        meeting.wait(t.all);
        normalise(x, layer.post_norm, B, H, layer.eps, h.data());
        std::vector<int64_t> expert(R), sorted, counts(E + 1, 0);  // copies, in the order of experts
        std::vector<float> score(R), scaled(R * H);
        if (E) {
            std::vector<float> logits(B * E);
            for (int64_t b = 0; b < B; b++)
                for (int64_t e = 0; e < E; e++) logits[b * E + e] = dot(h.data() + b * H, layer.router + e * H, H);
            if (layer.router_rank) {
                std::vector<float> inner(B * layer.router_rank), added(B * E);
                columns_times(layer.router_a, layer.router_rank, 0, layer.router_rank, H, h.data(), B,
                              inner.data(), layer.router_rank);
                for (float& one_inner : inner) one_inner *= layer.router_scale;
                columns_times(layer.router_b, E, 0, E, layer.router_rank, inner.data(), B, added.data(), E);
                for (int64_t i = 0; i < B * E; i++) logits[i] += added[i];
            }
            for (int64_t b = 0; b < B; b++)
                for (int64_t c = 0; c < C; c++) {  // the largest that is left
                    int64_t best = 0;
                    for (int64_t e = 1; e < E; e++)
                        if (logits[b * E + e] > logits[b * E + best]) best = e;
                    expert[b * C + c] = best;
                    score[b * C + c] = 1.0f / (1.0f + __builtin_expf(-logits[b * E + best]));
                    logits[b * E + best] = -__builtin_inff();
                }
            for (int64_t e = 0; e < E; e++)
                for (int64_t r = 0; r < R; r++)
                    if (expert[r] == e) sorted.push_back(r), counts[e]++;
            for (int64_t place = 0; place < R; place++)
                for (int64_t i = 0, r = sorted[place]; i < H; i++)
                    scaled[place * H + i] = h[r / C * H + i] * score[r];
            t.part(F, &first, &last);
            for (int64_t e = 0, place = 0; e < E; place += counts[e], e++) {
                if (!counts[e] || first >= last) continue;
                float *own = both.data() + place * 2 * F, *in = scaled.data() + place * H;
                product(layer.gate_up, e, first, last, in, counts[e], own, 2 * F, t);
                product(layer.gate_up, e, F + first, F + last, in, counts[e], own, 2 * F, t);
                for (int64_t r = 0; r < counts[e]; r++)
                    gated(own + r * 2 * F + first, own + r * 2 * F + F + first, last - first,
                          routed.data() + (place + r) * F + first);
            }
        }
        t.part(M, &first, &last);
        product(layer.gate, 0, first, last, h.data(), B, shared.data(), M, t);
        product(layer.up, 0, first, last, h.data(), B, up.data(), M, t);
        for (int64_t r = 0; r < B; r++) {
            float* own = shared.data() + r * M + first;
            gated(own, up.data() + r * M + first, last - first, own);
        }
        meeting.wait(t.all);
        t.part(H, &first, &last);
        product(layer.down, 0, first, last, shared.data(), B, y.data(), H, t);
        for (int64_t e = 0, place = 0; e < E; place += counts[e], e++)
            if (counts[e])
                product(layer.expert_down, e, first, last, routed.data() + place * F, counts[e],
                        result.data() + place * H, H, t);
        std::vector<int64_t> at_place(R);
        for (int64_t place = 0; place < (E ? R : 0); place++) at_place[sorted[place]] = place;
        for (int64_t b = 0; b < B; b++)
            for (int64_t i = first; i < last; i++) {
                float sum = y[b * H + i];
                for (int64_t c = 0; c < C && E; c++) sum += result[at_place[b * C + c] * H + i];
                x[b * H + i] += sum;
            }
    }
}

#define STEP(NAME, T)                                                                              \
    extern "C" void layer_step_##NAME(const Layer* layer, float* x, int64_t B, const float* turns, \
                                      const int64_t* at, T* keys, T* values,                       \
                                      const int32_t* const* tables, const int64_t* begins,         \
                                      int64_t size, int threads) {                                 \
        layer_step(*layer, x, B, turns, at, keys, values, tables, begins, size, threads);          \
    }
STEP(f32, float)
STEP(bf16, uint16_t)
