"""LiteLLM's providers: which of them speak OpenAI's protocol, at which base URL, with which key; and why others do not.

The docs' table is made of this. Base URLs and key variables are LiteLLM's own, where the provider has not moved.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Provider(NamedTuple):
    """One that speaks OpenAI's protocol."""

    url: str | None = None
    """Base URL; None: it is always given as `api_base`."""
    key: str | None = None
    """The variable that LiteLLM reads where no `api_key` is given; None: no key is needed."""
    base_variable: str | None = None
    """The variable that LiteLLM reads where no `api_base` is given, and it has no URL of its own."""
    path: str = ""
    """What OpenAI's protocol has behind LiteLLM's `api_base`."""
    prefix: str = ""
    """What LiteLLM puts before a model's name that has no such beginning."""
    key_header: str | None = None
    """The header of the key, where it is no Bearer token."""
    max_tokens_field: str | None = None


PROVIDERS: Final[dict[str, Provider]] = {
    # servers of one's own
    "openai": Provider("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "text-completion-openai": Provider("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "custom_openai": Provider(),
    "openai_like": Provider(),
    "aiohttp_openai": Provider(),
    "litellm_proxy": Provider(key="LITELLM_PROXY_API_KEY", base_variable="LITELLM_PROXY_API_BASE"),
    "hosted_vllm": Provider(base_variable="HOSTED_VLLM_API_BASE"),
    "ollama": Provider("http://localhost:11434", path="/v1", max_tokens_field="max_tokens"),
    "ollama_chat": Provider("http://localhost:11434", path="/v1", max_tokens_field="max_tokens"),
    "llamafile": Provider("http://127.0.0.1:8080/v1"),
    "lm_studio": Provider(base_variable="LM_STUDIO_API_BASE"),
    "xinference": Provider(base_variable="XINFERENCE_API_BASE"),
    "docker_model_runner": Provider(base_variable="DOCKER_MODEL_RUNNER_API_BASE"),
    "lemonade": Provider("http://localhost:8000/api/v1"),
    # providers
    "azure": Provider(key="AZURE_API_KEY", base_variable="AZURE_API_BASE", path="/openai/v1", key_header="api-key"),
    "azure_text": Provider(
        key="AZURE_API_KEY", base_variable="AZURE_API_BASE", path="/openai/v1", key_header="api-key"
    ),
    "azure_ai": Provider(
        key="AZURE_AI_API_KEY", base_variable="AZURE_AI_API_BASE", path="/openai/v1", key_header="api-key"
    ),
    "gemini": Provider("https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"),
    "groq": Provider("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "mistral": Provider("https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    "codestral": Provider("https://codestral.mistral.ai/v1", "CODESTRAL_API_KEY"),
    "deepseek": Provider("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "together_ai": Provider("https://api.together.xyz/v1", "TOGETHERAI_API_KEY"),
    "openrouter": Provider("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "xai": Provider("https://api.x.ai/v1", "XAI_API_KEY"),
    "fireworks_ai": Provider(
        "https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY", prefix="accounts/fireworks/models/"
    ),
    "perplexity": Provider("https://api.perplexity.ai", "PERPLEXITYAI_API_KEY"),
    "cerebras": Provider("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    "sambanova": Provider("https://api.sambanova.ai/v1", "SAMBANOVA_API_KEY"),
    "nvidia_nim": Provider("https://integrate.api.nvidia.com/v1", "NVIDIA_NIM_API_KEY"),
    "deepinfra": Provider("https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY"),
    "anyscale": Provider("https://api.endpoints.anyscale.com/v1", "ANYSCALE_API_KEY"),
    "ai21_chat": Provider("https://api.ai21.com/studio/v1", "AI21_API_KEY"),
    "volcengine": Provider("https://ark.cn-beijing.volces.com/api/v3", "VOLCENGINE_API_KEY"),
    "meta_llama": Provider("https://api.llama.com/compat/v1", "LLAMA_API_KEY"),
    "friendliai": Provider("https://api.friendli.ai/serverless/v1", "FRIENDLI_TOKEN"),
    "github": Provider("https://models.inference.ai.azure.com", "GITHUB_API_KEY"),
    "dashscope": Provider("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "DASHSCOPE_API_KEY"),
    "moonshot": Provider("https://api.moonshot.ai/v1", "MOONSHOT_API_KEY"),
    "zai": Provider("https://api.z.ai/api/paas/v4", "ZAI_API_KEY"),
    "minimax": Provider("https://api.minimax.io/v1", "MINIMAX_API_KEY"),
    "novita": Provider("https://api.novita.ai/v3/openai", "NOVITA_API_KEY"),
    "nebius": Provider("https://api.studio.nebius.ai/v1", "NEBIUS_API_KEY"),
    "hyperbolic": Provider("https://api.hyperbolic.xyz/v1", "HYPERBOLIC_API_KEY"),
    "lambda_ai": Provider("https://api.lambda.ai/v1", "LAMBDA_API_KEY"),
    "nscale": Provider("https://inference.api.nscale.com/v1", "NSCALE_API_KEY"),
    "featherless_ai": Provider("https://api.featherless.ai/v1", "FEATHERLESS_AI_API_KEY"),
    "vercel_ai_gateway": Provider("https://ai-gateway.vercel.sh/v1", "VERCEL_AI_GATEWAY_API_KEY"),
    "inception": Provider("https://api.inceptionlabs.ai/v1", "INCEPTION_API_KEY"),
    "scaleway": Provider("https://api.scaleway.ai/v1", "SCW_SECRET_KEY"),
    "veniceai": Provider("https://api.venice.ai/api/v1", "VENICE_AI_API_KEY"),
    "publicai": Provider("https://api.publicai.co/v1", "PUBLICAI_API_KEY", max_tokens_field="max_tokens"),
    "helicone": Provider("https://ai-gateway.helicone.ai", "HELICONE_API_KEY"),
    "synthetic": Provider("https://api.synthetic.new/openai/v1", "SYNTHETIC_API_KEY", max_tokens_field="max_tokens"),
    "nano-gpt": Provider("https://nano-gpt.com/api/v1", "NANOGPT_API_KEY", max_tokens_field="max_tokens"),
    "poe": Provider("https://api.poe.com/v1", "POE_API_KEY", max_tokens_field="max_tokens"),
    "chutes": Provider("https://llm.chutes.ai/v1", "CHUTES_API_KEY", max_tokens_field="max_tokens"),
    "aihubmix": Provider("https://aihubmix.com/v1", "AIHUBMIX_API_KEY"),
    "databricks": Provider(key="DATABRICKS_API_KEY", base_variable="DATABRICKS_API_BASE"),
}

_CLAUDE = (
    "speaks Anthropic's own protocol, not OpenAI's; point `openai/…` with api_base at a gateway that translates "
    "(LiteLLM itself may be one), or at Anthropic's OpenAI-compatible endpoint, https://api.anthropic.com/v1"
)
_GOOGLE = "wants Google's short-lived OAuth tokens; use `gemini/…` with a key, or a gateway that translates"
_AWS = "wants requests signed for AWS; put a gateway that translates between (LiteLLM itself may be one)"
_OWN = "speaks a protocol of its own; put a gateway that translates between (LiteLLM itself may be one)"
_OAUTH = "wants short-lived tokens of a login that only LiteLLM does"
_IN_PROCESS = "runs inside of LiteLLM's process; serve the model by `vllm serve` and name its URL"

NOT_SPOKEN: Final[dict[str, str]] = {
    "anthropic": _CLAUDE,
    "anthropic_text": _CLAUDE,
    "bedrock": _AWS,
    "bedrock_converse": _AWS,
    "sagemaker": _AWS,
    "sagemaker_chat": _AWS,
    "vertex_ai": _GOOGLE,
    "vertex_ai_beta": _GOOGLE,
    "palm": "is Google's old PaLM interface, which has ended",
    "cohere": "speaks a protocol of its own; Cohere's OpenAI-compatible endpoint is https://api.cohere.ai/compatibility/v1:"
    " name it as `openai/…` with api_base",
    "cohere_chat": "speaks a protocol of its own; Cohere's OpenAI-compatible endpoint is "
    "https://api.cohere.ai/compatibility/v1: name it as `openai/…` with api_base",
    "huggingface": "has several interfaces; its OpenAI-compatible one is https://router.huggingface.co/v1: name it as "
    "`openai/…` with api_base",
    "cloudflare": "has two interfaces; the OpenAI-compatible one is "
    "https://api.cloudflare.com/client/v4/accounts/ACCOUNT/ai/v1: name it as `openai/…` with api_base",
    "vllm": _IN_PROCESS,
    "petals": _IN_PROCESS,
    "github_copilot": _OAUTH,
    "chatgpt": _OAUTH,
    "watsonx": _OAUTH,
    "watsonx_text": _OAUTH,
    "sap": _OAUTH,
    "snowflake": _OWN,
    "oci": _OWN,
    "replicate": _OWN,
    "aleph_alpha": _OWN,
    "nlp_cloud": _OWN,
    "baseten": _OWN,
    "predibase": _OWN,
    "triton": _OWN,
    "clarifai": _OWN,
    "maritalk": _OWN,
    "gigachat": _OAUTH,
    "voyage": _OWN,
    "jina_ai": _OWN,
    "infinity": _OWN,
    "ai21": _OWN,
    "oobabooga": _OWN,
    "auto_router": "chooses between models by the prompt; clients name the model here",
    "custom": "is a provider of your own code in LiteLLM",
}
