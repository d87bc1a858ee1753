
Í	


service.name

helpdesk¬	
"
com.anthropic.sdk.python2.13.0…	
´F‹ÔÅËƒ±Ø‘É§N¬,9]«Óñ}"&/d\k÷’*llm.claude-sonnet-4-5-2025092909™‡@ó#ëAà„Gó#ëJ
server.address
	127.0.0.1J
server.port½J#
gen_ai.provider.name
	anthropicJ
gen_ai.operation.name
chatJ4
gen_ai.request.model
claude-sonnet-4-5-20250929J
gen_ai.request.max_tokens2J
http.request.method
POSTJ

http.route
/v1/messagesJ%
traceloop.entity.path

researcherJ'
traceloop.workflow.name

researcherJ

url.scheme
httpJ
url.path
/v1/messagesJ0
url.full$
"http://127.0.0.1:34749/v1/messagesJ 
gen_ai.usage.input_tokens’JJ 
http.response.status_codeÈJ(
anthropic.request.id
req_7ff8543086J0
gen_ai.response.id
msg_d32af622860244428fe4J5
gen_ai.response.model
claude-sonnet-4-5-20250929J,
%gen_ai.usage.cache_write.input_tokens”J+
$gen_ai.usage.cache_read.input_tokens¿J?
8anthropic.usage.cache_creation.ephemeral_5m_input_tokens¡J?
8anthropic.usage.cache_creation.ephemeral_1h_input_tokensóJ-
anthropic.response.service_tier

standardJ!
gen_ai.usage.output_tokensJ+
anthropic.message.stop_reason

end_turnJ0
$respan.metadata._tracing_sdk_version
2.24.0z