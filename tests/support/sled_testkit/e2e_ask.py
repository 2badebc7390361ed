"""Ask the model on this device, with the official openai client: python ask.py URL PROMPT"""

import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="unused")
model = client.models.list().data[0].id
text = client.completions.create(model=model, prompt=sys.argv[2], max_tokens=24, temperature=0)
print(f"{model}: {sys.argv[2]}{text.choices[0].text}")
