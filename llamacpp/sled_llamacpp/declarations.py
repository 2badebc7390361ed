"""The part of llama.cpp's C API that SLED calls, as declared by the pinned build. Nothing here
runs.

Declared for the llama.cpp inside xllamacpp 2026.10.11549. Pointers that SLED never follows are
`void *`; enums are `int`. `DEFAULTS` are the values that this build's default functions return:
reading them through these declarations and finding them is the evidence that the field offsets are
right.
"""

from __future__ import annotations

import re
from typing import Final

DECLARATIONS: Final = """
typedef bool (*abort_callback)(void *);

struct llama_model_params {
    void * devices;
    void * tensor_buft_overrides;
    int32_t n_gpu_layers;
    int split_mode;
    int load_mode;
    int lazy_mode;
    int32_t main_gpu;
    float * tensor_split;
    void * progress_callback;
    void * progress_callback_user_data;
    void * kv_overrides;
    bool vocab_only;
    bool check_tensors;
    bool use_extra_bufts;
    bool no_host;
    bool no_alloc;
    bool load_mtp;
};

struct llama_context_params {
    uint32_t n_ctx;
    uint32_t n_batch;
    uint32_t n_ubatch;
    uint32_t n_seq_max;
    uint32_t n_rs_seq;
    uint32_t n_outputs_max;
    uint32_t n_outputs_max_per_seq;
    int32_t n_threads;
    int32_t n_threads_batch;
    int ctx_type;
    int rope_scaling_type;
    int pooling_type;
    int attention_type;
    int flash_attn_type;
    float rope_freq_base;
    float rope_freq_scale;
    float yarn_ext_factor;
    float yarn_attn_factor;
    float yarn_beta_fast;
    float yarn_beta_slow;
    uint32_t yarn_orig_ctx;
    float defrag_thold;
    void * cb_eval;
    void * cb_eval_user_data;
    int type_k;
    int type_v;
    size_t moe_cache_size;
    abort_callback abort_callback;
    void * abort_callback_data;
    bool embeddings;
    bool offload_kqv;
    bool no_perf;
    bool op_offload;
    bool swa_full;
    bool kv_unified;
    void * samplers;
    size_t n_samplers;
    void * ctx_other;
};

struct llama_batch {
    int32_t n_tokens;
    int32_t * token;
    float * embd;
    int32_t * pos;
    int32_t * n_seq_id;
    int32_t ** seq_id;
    int8_t * logits;
};

void llama_backend_init(void);
void llama_log_set(void (*callback)(int, const char *, void *), void * user_data);

struct llama_model_params llama_model_default_params(void);
void * llama_model_load_from_file(const char * path, struct llama_model_params params);
void llama_model_free(void * model);
const void * llama_model_get_vocab(const void * model);
int32_t llama_model_n_ctx_train(const void * model);
bool llama_model_has_encoder(const void * model);
bool llama_model_has_decoder(const void * model);
bool llama_model_is_recurrent(const void * model);
bool llama_model_is_hybrid(const void * model);
bool llama_model_is_diffusion(const void * model);
uint64_t llama_model_size(const void * model);
const char * llama_model_chat_template(const void * model, const char * name);
int32_t llama_model_meta_count(const void * model);
int32_t llama_model_meta_key_by_index(const void * model, int32_t i, char * text, size_t size);
int32_t llama_model_meta_val_str_by_index(const void * model, int32_t i, char * text, size_t size);

struct llama_context_params llama_context_default_params(void);
void * llama_init_from_model(void * model, struct llama_context_params params);
void llama_free(void * context);
uint32_t llama_n_ctx_seq(const void * context);
uint32_t llama_n_ubatch(const void * context);
int32_t llama_decode(void * context, struct llama_batch batch);
float * llama_get_logits_ith(void * context, int32_t i);

void * llama_get_memory(const void * context);
bool llama_memory_seq_rm(void * memory, int32_t sequence, int32_t from, int32_t to);
void llama_memory_seq_cp(void * memory, int32_t source, int32_t target, int32_t from, int32_t to);

int32_t llama_vocab_n_tokens(const void * vocab);
const char * llama_vocab_get_text(const void * vocab, int32_t token);
int llama_vocab_get_attr(const void * vocab, int32_t token);
bool llama_vocab_is_eog(const void * vocab, int32_t token);
bool llama_vocab_is_control(const void * vocab, int32_t token);
int32_t llama_vocab_bos(const void * vocab);
int32_t llama_vocab_eos(const void * vocab);
bool llama_vocab_get_add_bos(const void * vocab);
int32_t llama_tokenize(const void * vocab, const char * text, int32_t length, int32_t * tokens,
                       int32_t capacity, bool add_special, bool parse_special);
int32_t llama_token_to_piece(const void * vocab, int32_t token, char * text, int32_t length,
                             int32_t lstrip, bool special);
"""

FUNCTIONS: Final = tuple(re.findall(r"\b(llama_\w+)\(", DECLARATIONS))
"""Names of all declared functions; a library without one of them is of another build."""

MAX_SLOTS: Final = 256
"""Sequences that this build allows in one context (LLAMA_MAX_SEQ)."""

FLASH_ATTENTION_ON: Final = 1
DECODE_ABORTED: Final = 2

_F16: Final = 1
DEFAULTS: Final[dict[str, dict[str, int | float | bool]]] = {
    "llama_model_params": {
        "n_gpu_layers": -1,
        "split_mode": 1,
        "load_mode": -1,
        "lazy_mode": 1,
        "main_gpu": 0,
        "vocab_only": False,
        "check_tensors": False,
        "use_extra_bufts": True,
        "no_host": False,
        "no_alloc": False,
        "load_mtp": False,
    },
    "llama_context_params": {
        "n_ctx": 512,
        "n_batch": 2048,
        "n_ubatch": 512,
        "n_seq_max": 1,
        "n_rs_seq": 0,
        "n_outputs_max": 0,
        "n_outputs_max_per_seq": 1,
        "n_threads": 4,
        "n_threads_batch": 4,
        "ctx_type": 0,
        "rope_scaling_type": -1,
        "pooling_type": -1,
        "attention_type": -1,
        "flash_attn_type": -1,
        "rope_freq_base": 0.0,
        "rope_freq_scale": 0.0,
        "yarn_ext_factor": -1.0,
        "yarn_attn_factor": -1.0,
        "yarn_beta_fast": -1.0,
        "yarn_beta_slow": -1.0,
        "yarn_orig_ctx": 0,
        "defrag_thold": -1.0,
        "type_k": _F16,
        "type_v": _F16,
        "moe_cache_size": 0,
        "embeddings": False,
        "offload_kqv": True,
        "no_perf": True,
        "op_offload": True,
        "swa_full": True,
        "kv_unified": False,
        "n_samplers": 0,
    },
}
"""Struct name -> field -> the value its default function returns. Pointers are expected to be NULL.
"""
